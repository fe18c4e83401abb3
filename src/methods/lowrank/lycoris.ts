import { z } from "zod";
import { ops, type Value } from "../../graph/index.js";
import { siteConfigSchema } from "../config.js";
import type { SiteCall, SiteShape } from "../method.js";

/** What LoHa and LoKr have in common (LyCORIS, arXiv 2309.14859). */
export const lycorisSchema = siteConfigSchema.extend({
  rank: z.number().int().positive().default(8).describe("rank r of the factors"),
  alpha: z.number().positive().default(8).describe("the update is scaled by alpha / rank"),
  rankDropout: z
    .number()
    .min(0)
    .lt(1)
    .default(0)
    .describe("share of the update's outputs left out while training"),
  moduleDropout: z
    .number()
    .min(0)
    .lt(1)
    .default(0)
    .describe("chance that a module's update is left out of a training step"),
  effectiveConv: z
    .boolean()
    .default(false)
    .describe(
      "factor the taps of convolutions apart from their channels (proposition 3 of arXiv 2108.06098)",
    ),
  rankPattern: z
    .record(z.string(), z.number().int().positive())
    .default({})
    .describe("rank by module pattern"),
  alphaPattern: z.record(z.string(), z.number().positive()).default({}).describe("alpha by module pattern"),
});
export type LycorisConfig = z.infer<typeof lycorisSchema>;

/** Numbers a filter has per channel; 1 for a linear map. */
export const tapsOf = ({ conv }: SiteShape): number => (conv?.kernel ?? []).reduce((a, b) => a * b, 1);

/** Whether the taps of a site get factors of their own. */
export const hasTapFactors = (site: SiteShape, { effectiveConv }: LycorisConfig): boolean =>
  effectiveConv && tapsOf(site) > 1;

/** Σ t[i, j, k]·a[i, out]·b[j, in] as `[out, in·taps]`: a core `[r, r, taps]` between two factors. */
export function coreProduct(core: Value, a: Value, b: Value): Value {
  const [rank, , taps] = core.shape as [number, number, number];
  const [outputs, inputs] = [a.shape[1] as number, b.shape[1] as number];
  const rows = ops.matmul(ops.transpose(a, [1, 0]), ops.reshape(core, [rank, rank * taps]));
  const turned = ops.transpose(ops.reshape(rows, [outputs, rank, taps]), [0, 2, 1]);
  return ops.reshape(ops.transpose(ops.matmul(turned, b), [0, 2, 1]), [outputs, inputs * taps]);
}

const kept = (random: Value, probability: number): Value =>
  ops.cast(ops.greater(random, probability), "float32");

/** Whether a pass leaves parts of the update out. */
export const drops = ({ training }: SiteCall, { rankDropout, moduleDropout }: LycorisConfig): boolean =>
  training && (rankDropout > 0 || moduleDropout > 0);

/** y + gate·update with outputs, and whole updates, left out by chance; `rescale` keeps the mean of the outputs. */
export function addDropped(
  { y, gate, noise, perFeature, site }: SiteCall,
  update: Value,
  { rankDropout, moduleDropout }: LycorisConfig,
  rescale: boolean,
): Value {
  let strength = gate;
  if (moduleDropout > 0)
    strength = ops.mul(gate, kept(noise(ops.scalar(1), "uniform", "module"), moduleDropout));
  if (rankDropout === 0) return ops.add(y, ops.mul(update, strength));
  const mask = kept(noise(ops.full([site.outFeatures], 0, "float32"), "uniform", "rank"), rankDropout);
  // An empty mask leaves nothing to rescale.
  const share = ops.max(ops.reduceMean(mask, undefined, false), 1 / site.outFeatures);
  const factor = rescale ? ops.div(mask, share) : mask;
  return ops.add(y, ops.mul(ops.mul(update, perFeature(factor)), strength));
}
