import { z } from "zod";
import { ops, type Value } from "../../graph/index.js";
import { type ActivationName, activations } from "../../models/index.js";
import { parseConfig, siteConfigSchema } from "../config.js";
import type { Adaptation, Method, TensorSpec, TensorValues } from "../method.js";

const schema = siteConfigSchema.extend({
  rank: z.number().int().positive().default(32).describe("width r of the network that the weight passes"),
  depth: z
    .number()
    .int()
    .nonnegative()
    .default(0)
    .describe("layers r x r between its two ends: this many down, and as many up with residuals"),
  activation: z
    .enum(Object.keys(activations) as [ActivationName, ...ActivationName[]])
    .default("relu")
    .describe("its activation"),
  scale: z.number().default(1).describe("factor of the update"),
});

/** Configuration of PEANuT, after defaults. */
export type PeanutConfig = z.infer<typeof schema>;

/** The hidden layers of one side, `peanut_encoders.0` and on. */
const layersOf = (side: "encoders" | "decoders", depth: number): string[] =>
  Array.from({ length: depth }, (_, at) => `peanut_${side}.${at}`);

/** What the network makes of the weight's columns, `[r, in]`. */
function encoded(weight: Value, values: TensorValues, { depth, activation }: PeanutConfig): Value {
  const act = activations[activation];
  const layer = (name: string, h: Value) => act(ops.matmul(values[name] as Value, h));
  let h = layer("peanut_A", weight);
  const residuals: Value[] = [];
  for (const name of layersOf("encoders", depth)) {
    residuals.push(h);
    h = layer(name, h);
  }
  for (const name of layersOf("decoders", depth)) h = ops.add(layer(name, h), residuals.pop() as Value);
  return h;
}

/** PEANuT (arXiv 2410.01870): W' = W + s·B·σ(A·W), an update that is a small network of the weight itself. */
export const peanutMethod = {
  name: "peanut",
  summary: "an update that a small network computes from the weight itself",
  paper: "2410.01870",
  schema,
  kinds: ["linear"],
  tensors({ outFeatures }, { rank, depth }) {
    const square = (columns: number): TensorSpec => ({
      shape: [rank, columns],
      trainable: true,
      init: ({ uniform }) => uniform(rank * columns, -1 / Math.sqrt(columns), 1 / Math.sqrt(columns)),
    });
    const hidden = [...layersOf("encoders", depth), ...layersOf("decoders", depth)];
    return {
      peanut_A: square(outFeatures),
      ...Object.fromEntries(hidden.map((name) => [name, square(rank)])),
      peanut_B: {
        shape: [outFeatures, rank],
        trainable: true,
        init: () => new Float32Array(outFeatures * rank),
      },
    };
  },
  weight: (weight, values, _, config) =>
    ops.gemm(values.peanut_B as Value, encoded(weight, values, config), weight, { alpha: config.scale }),
  lowRank: (weight, values, _, config) => ({
    a: encoded(weight, values, config),
    b: ops.mul(values.peanut_B as Value, config.scale),
  }),
  forward({ x, y, gate, apply, mix, weight, tensors: values }, config) {
    const h = ops.mul(apply(x, encoded(weight(), values, config)), gate);
    return mix(h, values.peanut_B as Value, { onto: y, alpha: config.scale });
  },
} satisfies Method<PeanutConfig>;

/**
 * PEANuT with a configuration. Defaults are PEFT's.
 *
 * Throws `config-invalid` naming the field.
 *
 * @example
 * ```ts
 * import { peanut } from "tunesmith/methods";
 * const adaptation = peanut({ rank: 32, depth: 1, targets: ["q_proj", "v_proj"] });
 * ```
 */
export const peanut = (config: z.input<typeof schema> = {}): Adaptation<PeanutConfig> => ({
  method: peanutMethod,
  config: parseConfig("peanut", schema, config),
});
