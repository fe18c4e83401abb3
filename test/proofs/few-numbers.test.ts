import { tinyloraProof } from "../../proofs/tinylora.js";
import { uniloraProof } from "../../proofs/unilora.js";
import { ops, type Value } from "../../src/graph/index.js";
import {
  type Method,
  type SharedSpec,
  type TensorSpec,
  type TinyloraConfig,
  tinyloraMethod,
  type UniloraConfig,
  uniloraMethod,
} from "../../src/methods/index.js";
import { altered, proves } from "./mutants.js";

/** A method whose shared tensors of some name start otherwise. */
function starting<C extends TinyloraConfig | UniloraConfig>(
  method: Method<C>,
  name: string,
  init: (spec: SharedSpec) => SharedSpec["init"],
): Method<C> {
  return {
    ...method,
    shared: (sites, config) =>
      Object.fromEntries(
        Object.entries(method.shared?.(sites, config) ?? {}).map(([key, spec]) => [
          key,
          key.includes(name) ? { ...spec, init: init(spec) } : spec,
        ]),
      ),
  };
}

const tiny = (method: Method<TinyloraConfig>) => tinyloraProof({ method, learns: false });
const uni = (method: Method<UniloraConfig>) => uniloraProof({ method, learns: false });
const scaled = (by: (value: number) => number) =>
  starting(
    uniloraMethod,
    "unilora_scales",
    (spec) => async (context) => Float32Array.from((await spec.init(context)) as Float32Array, by),
  );

proves([tinyloraProof(), uniloraProof()], {
  "random matrices that are too large": [
    tiny(
      starting(
        tinyloraMethod,
        "tinylora_P",
        (spec) => async (context) => ((await spec.init(context)) as Float32Array).map((value) => 2 * value),
      ),
    ),
    /variance/,
  ],
  "the same random matrices at every module": [
    tiny({
      ...tinyloraMethod,
      shared: (sites, config) => {
        const specs = tinyloraMethod.shared(sites, config);
        const first = specs[`${sites[0]?.path}.tinylora_P`] as SharedSpec;
        return Object.fromEntries(
          Object.entries(specs).map(([key, spec]) => [
            key,
            key.endsWith("_P") ? { ...spec, init: first.init } : spec,
          ]),
        );
      },
    }),
    /P of the two maps/,
  ],
  "factors of different size": [
    tiny({
      ...tinyloraMethod,
      tensors(site, config) {
        const scaled = (spec: TensorSpec, by: number): TensorSpec => ({
          ...spec,
          init: async (context) => ((await spec.init(context)) as Float32Array).map((value) => by * value),
        });
        const { tinylora_A: a, tinylora_B: b } = tinyloraMethod.tensors(site, config);
        return { tinylora_A: scaled(a as TensorSpec, 2), tinylora_B: scaled(b as TensorSpec, 0.5) };
      },
    }),
    /‖A‖ over/,
  ],
  "a mixture that is transposed": [
    tiny(
      altered(tinyloraMethod, {
        values: (own) => ({ ...own, tinylora_P: ops.transpose(own.tinylora_P as Value, [0, 2, 1]) }),
      }),
    ),
    /against the formula/,
  ],
  "a vector that is never shared": [
    tiny({
      ...tinyloraMethod,
      shared: (sites, config) => tinyloraMethod.shared(sites, { ...config, weightTying: 0 }),
    }),
    /numbers of both maps, tied/,
  ],
  "scales by the count, not its root": [uni(scaled((value) => value ** 2)), /length of all factors/],
  "no scales": [uni(scaled(() => 1)), /length of all factors/],
  "numbers drawn one by one": [
    uni(
      starting(uniloraMethod, "unilora_indices", (spec) => ({ uniform }) => {
        const count = spec.shape.reduce((a, b) => a * b, 1);
        return BigInt64Array.from(uniform(count, 0, 7), (value) => BigInt(Math.floor(value)));
      }),
    ),
    /least used/,
  ],
  "another seed": [
    uni({
      ...uniloraMethod,
      shared: (sites, config) => uniloraMethod.shared(sites, { ...config, projectionSeed: 43 }),
    }),
    /NumPy/,
  ],
  "a factor of half the size": [
    uni(
      altered(uniloraMethod, {
        values: (own) => ({ ...own, unilora_scales_B: ops.mul(own.unilora_scales_B as Value, 0.5) }),
      }),
    ),
    /against the formula/,
  ],
});
