import { z } from "zod";
import { ops, type Value } from "../../graph/index.js";
import { parseConfig, siteConfigSchema } from "../config.js";
import type { Adaptation, InitContext, Method, SiteShape, TensorSpec, TensorValues } from "../method.js";

const schema = siteConfigSchema.extend({
  parallelRank: z
    .number()
    .int()
    .min(0)
    .default(2)
    .describe("rank of the branch that sees the input; 0: none"),
  sequentialRank: z.number().int().min(0).default(2).describe("rank of the branch that sees W·x; 0: none"),
  scale: z.number().positive().default(1).describe("factor s of both branches"),
  branchBias: z.boolean().default(false).describe("biases in the branches"),
  initA: z
    .enum(["xavier", "normal", "kaiming"])
    .default("xavier")
    .describe("how the down-projections start: Xavier-uniform, N(0, 0.02²) or Kaiming-uniform"),
});

/** Configuration of Hydra, after defaults. */
export type HydraConfig = z.infer<typeof schema>;

function start({ normal, uniform }: InitContext, rows: number, columns: number, how: HydraConfig["initA"]) {
  if (how === "normal") return normal(rows * columns, 0.02);
  const bound = how === "xavier" ? Math.sqrt(6 / (rows + columns)) : 1 / Math.sqrt(columns);
  return uniform(rows * columns, -bound, bound);
}

/** A `[r, width]` and B `[out, r]`, with biases a and b, of one branch. */
function branch(
  name: "par" | "seq",
  rank: number,
  width: number,
  out: number,
  { initA, branchBias }: HydraConfig,
): Record<string, TensorSpec> {
  if (rank === 0) return {};
  const zeros = (shape: number[]): TensorSpec => ({
    shape,
    trainable: true,
    init: () => new Float32Array(shape.reduce((a, b) => a * b, 1)),
  });
  return {
    [`hydra_${name}_A`]: {
      shape: [rank, width],
      trainable: true,
      init: (context) => start(context, rank, width, initA),
    },
    [`hydra_${name}_B`]: zeros([out, rank]),
    ...(branchBias ? { [`hydra_${name}_a`]: zeros([rank]), [`hydra_${name}_b`]: zeros([out]) } : {}),
  };
}

/** s·(B·a + b) of one branch, if it has biases. */
function constantPart(values: TensorValues, name: "par" | "seq", scale: number): Value | undefined {
  const [up, a, b] = [values[`hydra_${name}_B`], values[`hydra_${name}_a`], values[`hydra_${name}_b`]];
  if (!up || !a || !b) return undefined;
  return ops.mul(ops.add(ops.squeeze(ops.matmul(up, ops.unsqueeze(a, 1)), 1), b), scale);
}

const sum = (values: readonly (Value | undefined)[]): Value | undefined =>
  values.reduce((total, value) => (total && value ? ops.add(total, value) : (total ?? value)), undefined);

/**
 * Hydra (arXiv 2309.06922): a parallel branch on x and a sequential one on h = W·x + bias:
 * W' = W + s·(B_p·A_p + B_s·A_s·W).
 */
export const hydraMethod = {
  name: "hydra",
  summary: "a low-rank branch beside the map and one behind it",
  paper: "2309.06922",
  sized: (size) => ({ parallelRank: size, sequentialRank: size }),
  schema,
  kinds: ["linear"],
  tensors: (site: SiteShape, config) => ({
    ...branch("par", config.parallelRank, site.inFeatures, site.outFeatures, config),
    ...branch("seq", config.sequentialRank, site.outFeatures, site.outFeatures, config),
  }),
  additive: ({ sequentialRank }) => sequentialRank === 0,
  weight(weight, values, _, { scale }) {
    const { hydra_par_A: pa, hydra_par_B: pb, hydra_seq_A: sa, hydra_seq_B: sb } = values;
    const parallel = pa && pb ? ops.gemm(pb, pa, weight, { alpha: scale }) : weight;
    return sa && sb ? ops.gemm(sb, ops.matmul(sa, weight), parallel, { alpha: scale }) : parallel;
  },
  biasDelta(values, _, { scale }, bias) {
    const { hydra_seq_A: sa, hydra_seq_B: sb } = values;
    const through =
      bias && sa && sb
        ? ops.mul(ops.squeeze(ops.matmul(sb, ops.matmul(sa, ops.unsqueeze(bias, 1))), 1), scale)
        : undefined;
    return sum([through, constantPart(values, "par", scale), constantPart(values, "seq", scale)]);
  },
  forward({ x, y, gate, tensors: values, apply, mix, perFeature }, { scale }) {
    const { hydra_par_A: pa, hydra_par_B: pb, hydra_seq_A: sa, hydra_seq_B: sb } = values;
    let out = y;
    if (pa && pb) out = mix(ops.mul(apply(x, pa), gate), pb, { onto: out, alpha: scale });
    if (sa && sb) out = mix(ops.mul(mix(y, sa), gate), sb, { onto: out, alpha: scale });
    const fixed = sum([constantPart(values, "par", scale), constantPart(values, "seq", scale)]);
    return fixed ? ops.add(out, ops.mul(perFeature(fixed), gate)) : out;
  },
} satisfies Method<HydraConfig>;

/**
 * Hydra with a configuration. Throws `config-invalid` naming the field.
 *
 * @example
 * ```ts
 * import { hydra } from "tunesmith/methods";
 * const adaptation = hydra({ parallelRank: 4, sequentialRank: 8, targets: ["o_proj", "down_proj"] });
 * ```
 */
export const hydra = (config: z.input<typeof schema> = {}): Adaptation<HydraConfig> => ({
  method: hydraMethod,
  config: parseConfig("hydra", schema, config),
});
