import { z } from "zod";
import { ops, type Value } from "../../graph/index.js";
import { parseConfig, siteConfigSchema } from "../config.js";
import type { Adaptation, InitContext, Method, SiteShape, TensorSpec, TensorValues } from "../method.js";
import { patternValue } from "../targets.js";

const schema = siteConfigSchema.extend({
  rank: z.number().int().positive().default(8).describe("rank r of the update"),
  // PEFT's 15 is for large models. B starts at zero and is normalised, so that the first step moves a weight by all of λ, whatever the rate.
  boundary: z.number().positive().default(4).describe("start of λ, which bounds the size of the update"),
  dropout: z.number().min(0).lt(1).default(0).describe("dropout on the input of the update while training"),
  rankPattern: z
    .record(z.string(), z.number().int().positive())
    .default({})
    .describe("rank by module pattern"),
  boundaryPattern: z
    .record(z.string(), z.number().positive())
    .default({})
    .describe("boundary by module pattern"),
});

/** Configuration of DeLoRA, after defaults. */
export type DeloraConfig = z.infer<typeof schema>;

const rankOf = ({ path }: SiteShape, config: DeloraConfig): number =>
  patternValue(config.rankPattern, path, config.rank);

/** Norms of the columns of W. */
async function columnNorms({ site, weight }: InitContext): Promise<Float32Array> {
  const sums = new Float64Array(site.inFeatures);
  (await weight()).forEach((value, at) => {
    const column = at % site.inFeatures;
    sums[column] = (sums[column] as number) + value * value;
  });
  return Float32Array.from(sums, Math.sqrt);
}

function tensors(site: SiteShape, config: DeloraConfig): Record<string, TensorSpec> {
  const rank = rankOf(site, config);
  const { inFeatures, outFeatures, path } = site;
  const bound = 1 / Math.sqrt(inFeatures);
  const start = patternValue(config.boundaryPattern, path, config.boundary);
  return {
    delora_A: {
      shape: [rank, inFeatures],
      trainable: true,
      init: ({ uniform }) => uniform(rank * inFeatures, -bound, bound),
    },
    delora_B: {
      shape: [outFeatures, rank],
      trainable: true,
      init: () => new Float32Array(outFeatures * rank),
    },
    delora_lambda: { shape: [1], trainable: true, init: () => Float32Array.of(start) },
    delora_w_norm: { shape: [inFeatures], trainable: false, init: columnNorms },
  };
}

/** ‖·‖ over one axis, at least 1e-4: B starts at zero. */
const norms = (matrix: Value, axis: 0 | 1): Value =>
  ops.sqrt(ops.clip(ops.reduceSum(ops.square(matrix), [axis], false), 1e-8));

/** λ / (r·‖aᵢ‖·‖bᵢ‖) per row of A, `[r]`. */
function strengths({ delora_A: a, delora_B: b, delora_lambda: lambda }: TensorValues): Value {
  const rank = (a as Value).shape[0] as number;
  return ops.div(lambda as Value, ops.mul(ops.mul(norms(a as Value, 1), norms(b as Value, 0)), rank));
}

/** DeLoRA (arXiv 2503.18225): W' = W + B·diag(λ / (r·‖aᵢ‖·‖bᵢ‖))·A·diag(w): direction and size of the update apart. */
export const deloraMethod = {
  name: "delora",
  summary: "low-rank update of normalised factors with a learned bound on its size",
  paper: "2503.18225",
  schema,
  kinds: ["linear"],
  tensors,
  additive: () => true,
  weight(weight, values) {
    const { delora_A: a, delora_B: b, delora_w_norm: columns } = values as Record<string, Value>;
    const rows = ops.mul(a as Value, ops.unsqueeze(strengths(values), 1));
    return ops.gemm(b as Value, ops.mul(rows, columns as Value), weight);
  },
  forward({ x, y, gate, apply, mix, dropped, tensors: values }, { dropout }) {
    const { delora_A: a, delora_B: b, delora_w_norm: columns } = values as Record<string, Value>;
    const input = dropout > 0 ? dropped(x, dropout) : x;
    const codes = apply(input, ops.mul(a as Value, columns as Value));
    return mix(ops.mul(codes, ops.mul(strengths(values), gate)), b as Value, { onto: y });
  },
} satisfies Method<DeloraConfig>;

/**
 * DeLoRA with a configuration. Defaults are PEFT's but for `boundary` (15 there), by our own search. Throws `config-invalid` naming the field.
 *
 * @example
 * ```ts
 * import { delora } from "tunesmith/methods";
 * const adaptation = delora({ rank: 8, boundary: 10, targets: ["q_proj", "v_proj"] });
 * ```
 */
export const delora = (config: z.input<typeof schema> = {}): Adaptation<DeloraConfig> => ({
  method: deloraMethod,
  config: parseConfig("delora", schema, config),
});
