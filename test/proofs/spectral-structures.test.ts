import {
  c3aProof,
  fourierftProof,
  shiraProof,
  supertuningProof,
  waveftProof,
} from "../../proofs/spectral-structures.js";
import { ops, type Value } from "../../src/graph/index.js";
import {
  c3aMethod,
  fourierftMethod,
  shiraMethod,
  supertuningMethod,
  waveftMethod,
} from "../../src/methods/index.js";
import { altered, proves, training } from "./mutants.js";

const learns = false;

/** The tensors whose name begins so, changed. */
const those =
  (begin: string, change: (value: Value) => Value) =>
  (values: Readonly<Record<string, Value>>): Record<string, Value> =>
    Object.fromEntries(
      Object.entries(values).map(([key, value]) => [key, key.startsWith(begin) ? change(value) : value]),
    );

proves([fourierftProof(), waveftProof(), c3aProof(), shiraProof(), supertuningProof()], {
  "Super-Tuning of the smallest weights": [
    supertuningProof({
      method: {
        ...supertuningMethod,
        tensors: (site, config) => supertuningMethod.tensors(site, { ...config, select: "smallest" }),
      },
    }),
    /largest: merged weight[\s\S]*largest: what \d+ steps miss/,
  ],
  "Super-Tuning with its low-rank update unscaled": [
    supertuningProof({
      learns,
      method: altered(supertuningMethod, {
        config: (own) => (own.rank === undefined ? own : { ...own, alpha: own.rank }),
      }),
    }),
    /supra: merged weight/,
  ],
  "FourierFT whose sines are added": [
    fourierftProof({
      learns,
      method: altered(fourierftMethod, {
        values: those("fourierft_signs", ops.neg),
      }),
    }),
    /formula[\s\S]*outside of the chosen places/,
  ],
  "FourierFT with entries at places of another seed": [
    fourierftProof({
      method: {
        ...fourierftMethod,
        shared: (sites, config) => fourierftMethod.shared(sites, { ...config, positionSeed: 5 }),
      },
    }),
    /formula[\s\S]*steps miss[\s\S]*projection/,
  ],
  "FourierFT with an unscaled transform": [
    fourierftProof({
      learns,
      method: altered(fourierftMethod, { config: (own) => ({ ...own, scaling: 24 * 32 * own.scaling }) }),
    }),
    /formula/,
  ],
  "WaveFT in the usual order of quadrants": [
    waveftProof({
      method: {
        ...waveftMethod,
        shared(sites, config) {
          const specs = waveftMethod.shared(sites, config);
          return Object.fromEntries(
            Object.entries(specs).map(([key, spec]) => [
              key,
              key.startsWith("waveft_factors") && config.transform
                ? {
                    ...spec,
                    // The signs of the second and third corner exchanged: rows for columns.
                    async init(context) {
                      const factors = (await spec.init(context)) as Float32Array;
                      const n = factors.length / 4;
                      const parts = [0, 2, 1, 3].map((corner) =>
                        factors.subarray(corner * n, (corner + 1) * n),
                      );
                      return Float32Array.from(parts.flatMap((part) => [...part]));
                    },
                  }
                : spec,
            ]),
          );
        },
      },
    }),
    /50 wavelets: merged weight[\s\S]*projection/,
  ],
  "WaveFT that leaves the transform out": [
    waveftProof({
      learns,
      method: {
        ...waveftMethod,
        shared: (sites, config) => waveftMethod.shared(sites, { ...config, transform: false }),
        weight: (w, values, site, config) =>
          waveftMethod.weight(w, values, site, { ...config, transform: false }),
      },
    }),
    /50 wavelets: merged weight/,
  ],
  "C3A divided by the block instead of the inputs": [
    c3aProof({
      learns,
      method: altered(c3aMethod, {
        values: those("c3a_kernel", (kernel) => ops.mul(kernel, 32 / (kernel.shape[2] as number))),
      }),
    }),
    /formula/,
  ],
  "C3A that turns the other way": [
    c3aProof({
      method: altered(c3aMethod, {
        values: those("c3a_kernel", (kernel) => {
          const size = kernel.shape[2] as number;
          const back = ops.ints(Array.from({ length: size }, (_, at) => size - 1 - at));
          return ops.gather(kernel, back, 2);
        }),
      }),
    }),
    /formula/,
  ],
  "C3A with blocks of one number": [
    c3aProof({
      method: altered(c3aMethod, {
        values: those("c3a_kernel", (kernel) =>
          ops.add(ops.mul(kernel, 0), ops.reduceMean(kernel, [2], true)),
        ),
      }),
    }),
    /rank of the update[\s\S]*steps miss[\s\S]*projection/,
  ],
  "SHiRA that replaces numbers": [
    shiraProof({
      method: {
        ...shiraMethod,
        weight: (w, { shira_weight: entries, shira_indices: indices }) =>
          ops.scatterNd(
            w,
            ops.transpose(ops.cast(indices as Value, "int64"), [1, 0]),
            entries as Value,
            "none",
          ),
      },
      learns,
    }),
    /change at the start/,
  ],
  "SHiRA with the same places in every module and adapter": [
    shiraProof({
      learns,
      method: {
        ...shiraMethod,
        tensors: (site, config) => shiraMethod.tensors(site, { ...config, maskSeed: 7 }),
      },
    }),
    /places that two adapters share[\s\S]*places of their own/,
  ],
  "SHiRA whose entries do not train": [
    shiraProof({ learns, method: training(shiraMethod, { shira_weight: false }) }),
    /trained numbers/,
  ],
});
