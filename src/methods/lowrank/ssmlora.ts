import { z } from "zod";
import { ops, type Value } from "../../graph/index.js";
import { parseConfig, siteConfigSchema } from "../config.js";
import type { Adaptation, Method, TensorSpec } from "../method.js";

const schema = siteConfigSchema.extend({
  rank: z
    .number()
    .int()
    .min(3, "a state is scaled to [0, 1]: of two numbers one is always 0, the other 1, and nothing is learnt")
    .default(8)
    .describe("rank r of the update, and width of the state; at least 3"),
  alpha: z.number().positive().default(16).describe("factor of the update (not divided by the rank)"),
  dropout: z.number().min(0).lt(1).default(0.1).describe("dropout on the state while training"),
  chain: z
    .enum(["per-kind", "all-modules"])
    .default("per-kind")
    .describe("which modules hand the state on: those of one name, or all in the order they run"),
  detachState: z.boolean().default(true).describe("hold the state constant that earlier modules hand on"),
});

/** Configuration of SSMLoRA, after defaults. */
export type SsmloraConfig = z.infer<typeof schema>;

/** Modules that hand the state on to each other. */
const chainOf = (path: string, { chain }: SsmloraConfig): string =>
  chain === "per-kind" ? path.slice(path.lastIndexOf(".") + 1) : "";

/** A state without range is a zero one; its derivative must not be divided by nothing. */
const LEAST_RANGE = 1e-6;

/** Each row scaled to [0, 1]. */
function normalised(s: Value): Value {
  const least = ops.reduceMin(s, [1]);
  const range = ops.sub(ops.reduceMax(s, [1]), least);
  const divisor = ops.where(ops.greater(range, LEAST_RANGE), ops.add(range, 1e-8), 1);
  return ops.div(ops.sub(s, least), divisor);
}

/**
 * SSMLoRA (arXiv 2502.04958): low-rank updates joined by a state per token that each module reads and hands on:
 * h' = norm(h·C + u·D + h), y + α·(u + h')·Bᵀ with u = x·Aᵀ. The state runs along the depth and starts at zero in every pass.
 */
export const ssmloraMethod = {
  name: "ssmlora",
  summary: "low-rank updates that hand a state on from module to module",
  paper: "2502.04958",
  schema,
  kinds: ["linear"],
  tensors({ inFeatures, outFeatures }, { rank }): Record<string, TensorSpec> {
    const zeros = (rows: number, columns: number): TensorSpec => ({
      shape: [rows, columns],
      trainable: true,
      init: () => new Float32Array(rows * columns),
    });
    return {
      ssm_A: {
        shape: [rank, inFeatures],
        trainable: true,
        init: ({ normal }) => normal(rank * inFeatures, 1 / Math.sqrt(rank)),
      },
      ssm_B: zeros(outFeatures, rank),
      ssm_C: zeros(rank, rank),
      ssm_D: zeros(rank, rank),
    };
  },
  unmergeable: () => "its update depends on what modules before it saw",
  weight: (weight) => weight,
  forward({ site, x, y, gate, apply, mix, dropped, pass, tensors: values }, config) {
    const { ssm_A: a, ssm_B: b, ssm_C: c, ssm_D: d } = values as Record<string, Value>;
    const u = apply(x, a as Value);
    const key = chainOf(site.path, config);
    const found = pass.get(key);
    // Modules that see other tokens (encoder and decoder) have chains of their own.
    const before = found && found.shape.join() === u.shape.join() ? found : undefined;
    const start = before ?? ops.mul(u, 0);
    const h = config.detachState ? ops.stopGradient(start) : start;
    const entered = ops.matmul(u, d as Value);
    const state = normalised(ops.add(ops.add(ops.matmul(h, c as Value), entered), h));
    pass.set(key, state);
    const seen = config.dropout > 0 ? dropped(state, config.dropout) : state;
    return mix(ops.mul(ops.add(u, seen), gate), b as Value, { onto: y, alpha: config.alpha });
  },
  // The first module of a chain meets a zero state, which its C does nothing to.
  hooks({ sites, config }) {
    const firsts = new Map<string, string | undefined>();
    for (const { shape, tensors } of sites) {
      const key = chainOf(shape.path, config);
      if (!firsts.has(key)) firsts.set(key, tensors.ssm_C?.name);
    }
    const idle = new Set(firsts.values());
    return { isTrained: (name) => !idle.has(name) };
  },
} satisfies Method<SsmloraConfig>;

/**
 * SSMLoRA with a configuration. Cannot be merged. The paper adapts half of the modules: `alternating` gives such targets.
 *
 * Throws `config-invalid` naming the field.
 *
 * @example
 * ```ts
 * import { alternating, ssmlora } from "tunesmith/methods";
 * const adaptation = ssmlora({ rank: 8, targets: alternating("q_proj", "v_proj"), chain: "all-modules" });
 * ```
 */
export const ssmlora = (config: z.input<typeof schema> = {}): Adaptation<SsmloraConfig> => ({
  method: ssmloraMethod,
  config: parseConfig("ssmlora", schema, config),
});

/** Targets as an expression: one module of the layers with even numbers, another of those with odd ones. */
export const alternating = (even: string, odd: string): string =>
  `.*\\.(\\d*[02468]\\.(.*\\.)?${even}|\\d*[13579]\\.(.*\\.)?${odd})`;
