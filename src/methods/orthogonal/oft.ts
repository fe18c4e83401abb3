import { z } from "zod";
import { TunesmithError } from "../../errors/index.js";
import { constant, ops, type Value } from "../../graph/index.js";
import type { TrainingHooks } from "../../models/index.js";
import { tensor } from "../../tensor/index.js";
import { blockRotate, cayley, cayleySeries, someIdentity } from "../algebra.js";
import { parseConfig, siteConfigSchema } from "../config.js";
import type { Adaptation, HookContext, Method, SiteShape, TensorSpec } from "../method.js";

const schema = siteConfigSchema.extend({
  blockSize: z
    .number()
    .int()
    .min(2)
    .default(32)
    .describe("width b of a rotation block; must divide the inputs"),
  blocks: z
    .number()
    .int()
    .positive()
    .optional()
    .describe("number of blocks of a rotation, in the place of blockSize"),
  blockShare: z.boolean().default(false).describe("one rotation for all blocks"),
  neumann: z
    .boolean()
    .default(true)
    .describe("Cayley's map by a series of powers (OFTv2) instead of exactly"),
  neumannTerms: z.number().int().min(2).default(5).describe("terms of the series"),
  coft: z.boolean().default(false).describe("keep rotations within a small ball around the identity"),
  eps: z.number().positive().default(6e-5).describe("size of that ball"),
  dropout: z
    .number()
    .min(0)
    .lt(1)
    .default(0)
    .describe("share of the blocks, chosen at random, that are left out while training"),
});

/** Configuration of OFT, after defaults. */
export type OftConfig = z.infer<typeof schema>;

/** Width of a site's blocks. Throws `config-invalid` when they do not fill its inputs. */
function blockSizeOf({ path, inFeatures }: SiteShape, { blockSize, blocks }: OftConfig): number {
  const b = blocks ? inFeatures / blocks : blockSize;
  if (Number.isInteger(b) && b > 1 && inFeatures % b === 0) return b;
  throw new TunesmithError(
    "config-invalid",
    `oft: ${path} has ${inFeatures} inputs, no multiple of ${blocks ? `2 · ${blocks}` : b}`,
    { fix: "choose a block size, or number, that divides the inputs of every target" },
  );
}

function tensors(site: SiteShape, config: OftConfig): Record<string, TensorSpec> {
  const b = blockSizeOf(site, config);
  const shape = [config.blockShare ? 1 : site.inFeatures / b, (b * (b - 1)) / 2];
  const count = (shape[0] as number) * (shape[1] as number);
  return { oft_R: { shape, trainable: true, init: () => new Float32Array(count) } };
}

/** Where the numbers above the diagonal, row by row, go in a `b × b` matrix; the diagonal and below take a zero. */
function placesAbove(b: number): BigInt64Array {
  const zero = (b * (b - 1)) / 2;
  const places = new BigInt64Array(b * b).fill(BigInt(zero));
  let next = 0;
  for (let row = 0; row < b; row++)
    for (let column = row + 1; column < b; column++) places[row * b + column] = BigInt(next++);
  return places;
}

/** Q − Qᵀ of the numbers above the diagonal, `[blocks, b, b]`. */
export function skewFrom(above: Value, b: number): Value {
  const [blocks] = above.shape as [number];
  const padded = ops.concat([above, ops.full([blocks, 1], 0, "float32")], 1);
  const flat = ops.gather(padded, constant(tensor("int64", [b * b], placesAbove(b))), 1);
  const upper = ops.reshape(flat, [blocks, b, b]);
  return ops.sub(upper, ops.transposeLast(upper));
}

function rotations(above: Value, site: SiteShape, config: OftConfig): Value {
  const b = blockSizeOf(site, config);
  const { neumann, neumannTerms, blockShare } = config;
  const skew = skewFrom(above, b);
  // The series approximates the inverse of the exact map, as in PEFT: both spellings of one file are kept.
  const turned = neumann ? cayleySeries(skew, neumannTerms, -1) : cayley(skew);
  return blockShare ? ops.expand(turned, [site.inFeatures / b, b, b]) : turned;
}

/** Orthogonal fine-tuning (arXiv 2306.07280, OFTv2 2506.19847): W' = W·Rᵀ with R block-diagonal and orthogonal. */
export const oftMethod = {
  name: "oft",
  summary: "inputs rotated in blocks by learned orthogonal matrices",
  paper: "2306.07280",
  sized: (size) => ({ blockSize: size }),
  schema,
  kinds: ["linear", "conv"],
  tensors,
  // Rows of activations meet R from the right: x·R; so rows of W meet Rᵀ.
  weight: (weight, values, site, config) =>
    blockRotate(weight, rotations(values.oft_R as Value, site, config)),
  // Otherwise through the changed weight. One rotation for all blocks is never dropped, as in PEFT.
  forward({ x, bias, gate, weight, apply, noise, training, tensors: values, site }, config) {
    const { dropout, blockShare } = config;
    if (!training || dropout === 0 || blockShare) return undefined;
    const whole = rotations(values.oft_R as Value, site, config);
    const draws = noise(ops.full([whole.shape[0] as number], 0, "float32"), "uniform");
    const turned = blockRotate(weight(), someIdentity(whole, dropout, draws));
    const change = ops.mul(ops.sub(turned, weight()), gate);
    const product = apply(x, ops.add(weight(), change));
    return bias ? ops.add(product, bias) : product;
  },
  hooks: ({ config, sites }) => (config.coft ? constrained(config, sites) : {}),
} satisfies Method<OftConfig>;

/** Projects every block back into the ball after an update, outside the derivative. */
function constrained({ eps }: OftConfig, sites: HookContext<OftConfig>["sites"]): TrainingHooks {
  const project = (data: Float32Array, [blocks, size]: readonly number[]) => {
    const most = eps / Math.sqrt(blocks as number);
    for (let block = 0; block < (blocks as number); block++) {
      const part = data.subarray(block * (size as number), (block + 1) * (size as number));
      // Both triangles of the skew matrix count.
      const norm = Math.sqrt(2 * part.reduce((sum, value) => sum + value * value, 0));
      if (norm <= most) continue;
      for (let at = 0; at < part.length; at++) part[at] = ((part[at] as number) * most) / norm;
    }
  };
  return {
    afterUpdate() {
      for (const { tensors: own } of sites) {
        const { tensor: r } = own.oft_R as NonNullable<(typeof own)[string]>;
        project(r.data as Float32Array, r.shape);
      }
    },
  };
}

/**
 * OFT with a configuration. Defaults are PEFT's. Throws `config-invalid` naming the field.
 *
 * @example
 * ```ts
 * import { oft } from "tunesmith/methods";
 * const adaptation = oft({ blockSize: 16, targets: "all-linear" });
 * ```
 */
export const oft = (config: z.input<typeof schema> = {}): Adaptation<OftConfig> => ({
  method: oftMethod,
  config: parseConfig("oft", schema, config),
});
