import { z } from "zod";
import { TunesmithError } from "../../errors/index.js";
import { ops, type Value } from "../../graph/index.js";
import { parseConfig, siteConfigSchema } from "../config.js";
import type { Adaptation, Method, SiteShape, TensorSpec } from "../method.js";

const schema = siteConfigSchema.extend({
  rank: z.number().int().positive().default(32).describe("rank r of a row of blocks"),
  alpha: z.number().positive().default(64).describe("the update is scaled by alpha / (rank + hybridRank)"),
  blocks: z
    .number()
    .int()
    .positive()
    .default(2)
    .describe("blocks k along each side of the weight; divides rank"),
  hybridRank: z.number().int().min(0).default(0).describe("rank of an ordinary LoRA beside the blocks"),
  dropout: z.number().min(0).lt(1).default(0).describe("dropout on the input of the update while training"),
});

/** Configuration of GraLoRA, after defaults. */
export type GraloraConfig = z.infer<typeof schema>;

const scaleOf = ({ alpha, rank, hybridRank }: GraloraConfig): number => alpha / (rank + hybridRank);

function checkSizes({ path, inFeatures, outFeatures }: SiteShape, { blocks, rank }: GraloraConfig): void {
  if (inFeatures % blocks === 0 && outFeatures % blocks === 0 && rank % blocks === 0) return;
  throw new TunesmithError(
    "config-invalid",
    `blocks: ${blocks} does not divide rank ${rank} and both sides of ${path}, ${outFeatures} x ${inFeatures}`,
    { fix: "choose a common divisor", details: { path } },
  );
}

function tensors(site: SiteShape, config: GraloraConfig): Record<string, TensorSpec> {
  checkSizes(site, config);
  const { rank, blocks, hybridRank } = config;
  const [inputs, outputs] = [site.inFeatures / blocks, site.outFeatures / blocks];
  const random = (shape: readonly number[], fan: number): TensorSpec => ({
    shape,
    trainable: true,
    init: ({ uniform }) =>
      uniform(
        shape.reduce((a, b) => a * b, 1),
        -1 / Math.sqrt(fan),
        1 / Math.sqrt(fan),
      ),
  });
  const zero = (shape: readonly number[]): TensorSpec => ({
    shape,
    trainable: true,
    init: () => new Float32Array(shape.reduce((a, b) => a * b, 1)),
  });
  return {
    gralora_A: random([blocks, inputs, rank], inputs),
    gralora_B: zero([blocks, rank, outputs]),
    ...(hybridRank > 0 && {
      gralora_A_general: random([hybridRank, site.inFeatures], site.inFeatures),
      gralora_B_general: zero([site.outFeatures, hybridRank]),
    }),
  };
}

/** Every block of the update by itself: the product of its slices of A and B, `[out, in]`. */
function blockUpdate(a: Value, b: Value): Value {
  const [k, inputs, rank] = a.shape as [number, number, number];
  const outputs = b.shape[2] as number;
  const left = ops.transpose(ops.reshape(a, [k, inputs, k, rank / k]), [0, 2, 1, 3]);
  const right = ops.transpose(ops.reshape(b, [k, k, rank / k, outputs]), [1, 0, 2, 3]);
  return ops.reshape(ops.transpose(ops.matmul(left, right), [1, 3, 0, 2]), [k * outputs, k * inputs]);
}

/** The same on activations `[tokens, in]`: codes of every input block, dealt to the output blocks, `[tokens, out]`. */
function blockApplied(x: Value, a: Value, b: Value): Value {
  const [k, inputs, rank] = a.shape as [number, number, number];
  const outputs = b.shape[2] as number;
  const byBlock = ops.transpose(ops.reshape(x, [-1, k, inputs]), [1, 0, 2]);
  const codes = ops.reshape(ops.matmul(byBlock, a), [k, -1, k, rank / k]);
  const dealt = ops.reshape(ops.transpose(codes, [2, 1, 0, 3]), [k, -1, rank]);
  return ops.reshape(ops.transpose(ops.matmul(dealt, b), [1, 0, 2]), [-1, k * outputs], [x]);
}

/** GraLoRA (arXiv 2505.20355): W' = W + s·(k × k blocks of rank r / k), with an ordinary LoRA beside them if wanted. */
export const graloraMethod = {
  name: "gralora",
  summary: "a grid of blocks, each with a low-rank update of its own",
  paper: "2505.20355",
  schema,
  kinds: ["linear"],
  tensors,
  additive: () => true,
  weight(weight, values, _, config) {
    const { gralora_A: a, gralora_B: b, gralora_A_general: down, gralora_B_general: up } = values;
    const update = blockUpdate(a as Value, b as Value);
    const both = down && up ? ops.gemm(up, down, update) : update;
    return ops.add(weight, ops.mul(both, scaleOf(config)));
  },
  forward({ x, y, gate, apply, mix, dropped, tensors: values }, config) {
    const { gralora_A: a, gralora_B: b, gralora_A_general: down, gralora_B_general: up } = values;
    const input = config.dropout > 0 ? dropped(x, config.dropout) : x;
    const update = blockApplied(input, a as Value, b as Value);
    const both = down && up ? mix(apply(input, down), up, { onto: update }) : update;
    return ops.add(y, ops.mul(ops.mul(both, scaleOf(config)), gate));
  },
} satisfies Method<GraloraConfig>;

/**
 * GraLoRA with a configuration. Defaults are PEFT's.
 *
 * Throws `config-invalid` naming the field; so does adapting a weight that the blocks do not divide.
 *
 * @example
 * ```ts
 * import { gralora } from "tunesmith/methods";
 * const adaptation = gralora({ rank: 16, alpha: 32, blocks: 4, targets: "all-linear" });
 * ```
 */
export const gralora = (config: z.input<typeof schema> = {}): Adaptation<GraloraConfig> => ({
  method: graloraMethod,
  config: parseConfig("gralora", schema, config),
});
