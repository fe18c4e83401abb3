import {
  type Adaptation,
  adapt,
  isAdapted,
  lora,
  type Method,
  merge,
  type PsoftConfig,
  psoft,
  psoftMethod,
} from "../src/methods/index.js";
import type { TensorModel } from "../src/models/index.js";
import { adam } from "../src/training/index.js";
import {
  isTrue,
  rankOfChange,
  rotation,
  shake,
  spectrumChange,
  trainedCount,
  turned,
  vanishes,
} from "./matrices.js";
import {
  accuracy,
  atLeast,
  mixture,
  network,
  normals as numbers,
  numbersOf,
  type Points,
  pretrain,
  tune,
} from "./network.js";
import { compute, gap, normals, type PlantedMap, start, times } from "./planted.js";
import type { Check, Proof } from "./proof.js";

export interface PsoftProofOptions {
  /** The implementation under test. */
  readonly method?: Method<PsoftConfig>;
  /** Leave the learning checks out. Default false. */
  readonly algebraOnly?: boolean;
}

const STRICT = { scaleInputs: false, scaleOutputs: false };
const configOf = (options: Parameters<typeof psoft>[0]) => psoft(options).config;

/**
 * What PSOFT must do: a rotation inside the principal subspace keeps the Gram matrix and singular values of the whole weight, by
 * r(r − 1)/2 numbers (and 2r scales) whatever the layer's size; and it repairs a rotation of the inputs' main directions.
 */
export function psoftProof({ method = psoftMethod, algebraOnly = false }: PsoftProofOptions = {}): Proof {
  return {
    name: "psoft",
    title: "PSOFT rotates inside the principal subspace, and singular values stay",
    papers: ["2505.11235"],
    async run() {
      const checks = [...(await algebra(method)), ...(await counts(method))];
      return algebraOnly ? checks : [...checks, ...(await learning(method))];
    },
  };
}

const [OUT, IN] = [12, 10];
const map: PlantedMap = {
  path: "map",
  out: OUT,
  in: IN,
  weight: normals(OUT * IN, "psoft"),
  target: new Float32Array(OUT * IN),
};

async function algebra(method: Method<PsoftConfig>): Promise<Check[]> {
  const adaptation = { method, config: configOf({ rank: 4, ...STRICT }) };
  const live = await start(adaptation, [map]);
  const still = await compute(adaptation, map, live, new Float32Array(IN));
  shake(live, 1);
  const { weight, forward } = await compute(adaptation, map, live, normals(3 * IN, "x"));
  // Rows live in outputs: what is kept is W·Wᵀ, the Gram matrix of the rows.
  const gram = (w: Float32Array) => times(w, turned(OUT, IN, w), [OUT, IN, OUT]);
  const expected = times(normals(3 * IN, "x"), turned(OUT, IN, weight), [3, IN, OUT]);
  return [
    vanishes("change at the start", gap(still.weight, map.weight), 1e-5),
    vanishes("activations against the merged weight", gap(forward, expected), 1e-5),
    vanishes("strict: change of singular values", spectrumChange(OUT, IN, map.weight, weight), 1e-5),
    vanishes("strict: change of the rows' Gram matrix", gap(gram(weight), gram(map.weight)), 1e-4),
    isTrue("strict: the weight moved", gap(weight, map.weight) > 0.1),
    isTrue("rank of the change within 4", rankOfChange(OUT, IN, map.weight, weight) <= 4),
  ];
}

async function counts(method: Method<PsoftConfig>): Promise<Check[]> {
  let wrong = 0;
  for (const [out, inn] of [
    [12, 10],
    [40, 8],
    [9, 33],
  ] as const)
    for (const r of [2, 5, 8]) {
      const own: PlantedMap = { ...map, out, in: inn, weight: normals(out * inn, "count", out) };
      const relaxed = await start({ method, config: configOf({ rank: r }) }, [own]);
      const strict = await start({ method, config: configOf({ rank: r, ...STRICT }) }, [own]);
      const angles = (r * (r - 1)) / 2;
      if (trainedCount(relaxed) !== angles + 2 * r || trainedCount(strict) !== angles) wrong++;
    }
  return [vanishes("layers whose numbers are not r(r − 1)/2, and 2r more when relaxed", wrong, 0)];
}

const [WIDTH, HIDDEN, CLASSES, MAIN] = [64, 128, 10, 8];

/** A mixture whose variance lives in 8 of 64 directions. */
function points(count: number, seed: string): Points {
  const centres = numbers(CLASSES * WIDTH, 1.2, "psoft", "centres");
  const { x, labels } = mixture(centres, { classes: CLASSES, count, seed });
  return { width: WIDTH, labels, x: x.map((value, at) => value * (at % WIDTH < MAIN ? 2 : 0.3)) };
}

/** The main directions turned by a random rotation. */
function rotated({ x, ...rest }: Points): Points {
  const small = rotation(MAIN, 9);
  const out = x.slice();
  for (let row = 0; row < x.length; row += WIDTH)
    out.set(times(x.subarray(row, row + MAIN), small, [1, MAIN, MAIN]), row);
  return { ...rest, x: out };
}

/** A network with every layer adapted, trained on turned inputs: the accuracy, and what became of the first layer's spectrum. */
async function repaired(base: TensorModel, layers: readonly Adaptation[], fresh: Points, test: Points) {
  let model: TensorModel = base;
  for (const [at, adaptation] of layers.entries())
    model = await adapt(model, adaptation, { name: `layer ${at}` });
  await tune(model, fresh, { steps: 800, lr: 1e-2, batchSize: 128, optimizer: adam({ lr: 1e-2 }) });
  if (!isAdapted(model)) throw new Error("no adapter");
  const merged = (await merge(model)) as unknown as TensorModel;
  const [before, after] = [await numbersOf(base, "fc1.weight"), await numbersOf(merged, "fc1.weight")];
  return { accuracy: await accuracy(model, test), change: spectrumChange(HIDDEN, WIDTH, before, after) };
}

async function learning(method: Method<PsoftConfig>): Promise<Check[]> {
  const plain = network([WIDTH, HIDDEN, CLASSES], { seed: "psoft" });
  const base = await pretrain(plain, points(8000, "train"), { steps: 800, lr: 3e-3, batchSize: 128 });
  const test = points(4000, "test");
  const [fresh, turnedTest] = [rotated(points(20000, "adapt")), rotated(test)];
  const of = (rank: number, options: Parameters<typeof psoft>[0] = {}) =>
    repaired(
      base,
      // The second layer has no more than 10 singular values.
      [
        ["fc1", rank],
        ["fc2", Math.min(rank, CLASSES)],
      ].map(([target, r]) => ({
        method,
        config: configOf({ ...options, rank: Number(r), targets: [String(target)] }),
      })) as unknown as Adaptation[],
      fresh,
      turnedTest,
    );
  const strict8 = await of(8, STRICT);
  const strict10 = await of(10, STRICT);
  const strict16 = await of(16, STRICT);
  const [relaxed8, relaxed16] = [await of(8), await of(16)];
  const one = await repaired(base, [lora({ rank: 1, alpha: 1 }) as unknown as Adaptation], fresh, turnedTest);
  const reported = (what: string, measured: number, expected: number): Check => ({
    ...{ what: `accuracy, ${what}`, measured, expected, tolerance: 0.05 },
  });
  return [
    reported("before the rotation", await accuracy(base, test), 0.997),
    {
      what: "accuracy, turned, as it is",
      measured: await accuracy(base, turnedTest),
      expected: 0.69,
      tolerance: 0.15,
    },
    reported("strict rank 8, 56 numbers", strict8.accuracy, 0.948),
    reported("strict rank 10, 90 numbers", strict10.accuracy, 0.984),
    reported("strict rank 16, 165 numbers", strict16.accuracy, 0.993),
    reported("relaxed rank 16, 217 numbers", relaxed16.accuracy, 0.997),
    reported("LoRA rank 1, 330 numbers", one.accuracy, 0.994),
    vanishes("strict rank 16 short of LoRA rank 1", Math.max(0, one.accuracy - strict16.accuracy), 0.01),
    vanishes("strict: change of singular values", strict16.change, 1e-5),
    atLeast("relaxed: change of singular values", relaxed16.change, 0.1, 10),
    atLeast("LoRA: change of singular values", one.change, 0.1, 10),
    atLeast("relaxed rank 8 above strict rank 8", relaxed8.accuracy - strict8.accuracy, 0.01),
  ];
}
