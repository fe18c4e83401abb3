import { z } from "zod";
import { TunesmithError } from "../../errors/index.js";
import { ops, type Value } from "../../graph/index.js";
import { parseConfig, siteConfigSchema } from "../config.js";
import type { Adaptation, Method, SiteShape } from "../method.js";

const schema = siteConfigSchema.extend({
  rank: z.number().int().positive().default(64).describe("rows r of the shared block"),
  variant: z
    .enum(["miss", "bat", "mini"])
    .default("miss")
    .describe(
      "miss: one block for all; bat: a block per r outputs that also multiplies W; mini: a narrow block, repeated",
    ),
  miniRank: z.number().int().positive().default(1).describe("columns of the block of variant mini"),
  dropout: z.number().min(0).lt(1).default(0).describe("dropout on the input of the update while training"),
});

/** Configuration of MiSS, after defaults. */
export type MissConfig = z.infer<typeof schema>;

/** Shape of the block. Throws `config-invalid` where sizes do not divide. */
function blockShape({ path, inFeatures, outFeatures }: SiteShape, config: MissConfig): readonly number[] {
  const { rank, variant, miniRank } = config;
  const wrong = (field: string, what: string) =>
    new TunesmithError("config-invalid", `${field}: ${what} ${path}, ${outFeatures} x ${inFeatures}`, {
      fix: "choose a divisor",
      details: { path },
    });
  if (rank > inFeatures) throw wrong("rank", `${rank} exceeds the inputs of`);
  if (variant === "miss") return [rank, outFeatures];
  if (variant === "mini") {
    if (outFeatures % miniRank !== 0) throw wrong("miniRank", `${miniRank} does not divide the outputs of`);
    return [rank, miniRank];
  }
  if (outFeatures % rank !== 0 || inFeatures % rank !== 0)
    throw wrong("rank", `${rank} does not divide both sides of`);
  return [outFeatures / rank, rank, rank];
}

/** The block over all outputs, `[r, out]`. */
const wide = (block: Value, { outFeatures }: SiteShape): Value =>
  block.shape[1] === outFeatures ? block : ops.tile(block, [1, outFeatures / (block.shape[1] as number)]);

/** W·M + M for every block of W, those of one row of blocks with one M. */
function blockProducts(weight: Value, block: Value, { inFeatures, outFeatures }: SiteShape): Value {
  const rank = block.shape[1] as number;
  const tiles = ops.reshape(weight, [outFeatures / rank, rank, inFeatures / rank, rank]);
  const moved = ops.add(ops.matmul(ops.transpose(tiles, [2, 0, 1, 3]), block), block);
  return ops.reshape(ops.transpose(moved, [1, 2, 0, 3]), [outFeatures, inFeatures]);
}

/** MiSS (arXiv 2409.15371): W' = W + [Mᵀ Mᵀ …]: inputs are summed in r shards before one small product. */
export const missMethod = {
  name: "miss",
  summary: "one small block repeated along the inputs of the weight",
  paper: "2409.15371",
  schema,
  kinds: ["linear"],
  tensors(site, config) {
    const shape = blockShape(site, config);
    const count = shape.reduce((a, b) => a * b, 1);
    return { miss_block: { shape, trainable: true, init: () => new Float32Array(count) } };
  },
  additive: ({ variant }) => variant !== "bat",
  weight(weight, { miss_block: block }, site, { variant, rank }) {
    if (variant === "bat") return ops.add(weight, blockProducts(weight, block as Value, site));
    const repeated = ops.tile(wide(block as Value, site), [Math.ceil(site.inFeatures / rank), 1]);
    return ops.add(weight, ops.transpose(ops.slice(repeated, 0, 0, site.inFeatures), [1, 0]));
  },
  forward({ x, y, gate, dropped, site, tensors: { miss_block: block } }, { variant, rank, dropout }) {
    if (variant === "bat") return undefined;
    const input = dropout > 0 ? dropped(x, dropout) : x;
    const missing = (rank - (site.inFeatures % rank)) % rank;
    const padded = missing > 0 ? ops.pad(input, [0, 0], [0, missing]) : input;
    const shards = ops.reshape(padded, [-1, (site.inFeatures + missing) / rank, rank]);
    const sums = ops.mul(ops.reduceSum(shards, [1], false), gate);
    return ops.gemm(sums, wide(block as Value, site), y);
  },
} satisfies Method<MissConfig>;

/**
 * MiSS with a configuration. Defaults are PEFT's.
 *
 * Throws `config-invalid` naming the field; so does adapting a weight that blocks do not divide.
 *
 * @example
 * ```ts
 * import { miss } from "tunesmith/methods";
 * const adaptation = miss({ rank: 16, targets: "all-linear" });
 * ```
 */
export const miss = (config: z.input<typeof schema> = {}): Adaptation<MissConfig> => ({
  method: missMethod,
  config: parseConfig("miss", schema, config),
});
