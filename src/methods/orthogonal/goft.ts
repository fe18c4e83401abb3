import { z } from "zod";
import { ops, type Value } from "../../graph/index.js";
import { identityMatrix } from "../algebra.js";
import { parseConfig, siteConfigSchema } from "../config.js";
import type { Adaptation, Method, SiteShape, TensorSpec, TensorValues } from "../method.js";
import { type TreePart, treeMatrices, treePart } from "./rotation-tree.js";

const schema = siteConfigSchema.extend({
  quasi: z.boolean().default(false).describe("free 2 × 2 blocks instead of rotations (qGOFT)"),
  scale: z.boolean().default(true).describe("learn a factor per input (GOFT only)"),
  lambda: z
    .number()
    .min(0)
    .default(0.01)
    .describe("weight of the penalty on blocks that are not orthogonal (qGOFT)"),
});

/** Configuration of GOFT and qGOFT, after defaults. */
export type GoftConfig = z.infer<typeof schema>;

/** Planes of one level of the tree: coordinates i and j that are turned together. */
export interface Level {
  readonly i: readonly number[];
  readonly j: readonly number[];
}

/** The binary tree of d − 1 planes: at each level the coordinates left are paired at the current stride. */
export function rotationTree(d: number): Level[] {
  const levels: Level[] = [];
  let [count, stride] = [d, 1];
  while (count > 1) {
    const pairs = Math.floor(count / 2);
    const i = Array.from({ length: pairs }, (_, k) => 2 * k * stride);
    levels.push({ i, j: i.map((at) => at + stride) });
    count = pairs + (count % 2);
    stride *= 2;
  }
  return levels;
}

const planes = ({ inFeatures }: SiteShape): number => inFeatures - 1;

function tensors(site: SiteShape, { quasi, scale }: GoftConfig): Record<string, TensorSpec> {
  const count = planes(site);
  if (quasi) {
    // α1, β1, α2, β2 of every plane, an identity each.
    const start = Float32Array.from({ length: 4 * count }, (_, at) => (at % 4 === 0 || at % 4 === 3 ? 1 : 0));
    return { goft_blocks: { shape: [count, 4], trainable: true, init: () => start } };
  }
  const angles: TensorSpec = { shape: [count], trainable: true, init: () => new Float32Array(count) };
  const ones = () => new Float32Array(site.inFeatures).fill(1);
  return scale
    ? { goft_angles: angles, goft_scale: { shape: [site.inFeatures], trainable: true, init: ones } }
    : { goft_angles: angles };
}

/** Entries [[a, b], [c, e]] of every plane, `[planes]` each. */
function entries({
  goft_blocks: blocks,
  goft_angles: angles,
}: TensorValues): Record<"a" | "b" | "c" | "e", Value> {
  if (blocks) {
    const at = (k: number) => ops.squeeze(ops.slice(blocks, 1, k, k + 1), 1);
    return { a: at(0), b: at(1), c: at(2), e: at(3) };
  }
  const theta = ops.mul(ops.tanh(angles as Value), Math.PI);
  const [cos, sin] = [ops.cos(theta), ops.sin(theta)];
  return { a: cos, b: ops.neg(sin), c: sin, e: cos };
}

/** Coordinates that are turned by one matrix: the levels within it one by one would each pass over all activations. */
const BLOCK = 32;

/** The two halves of the tree at a width: within blocks of `size`, and among the first coordinates of the blocks. */
interface Halves {
  readonly size: number;
  readonly within: TreePart;
  readonly among: TreePart;
}

const known = new Map<number, Halves>();

function halvesOf(width: number): Halves {
  const before = known.get(width);
  if (before) return before;
  let size = 1;
  while (size < BLOCK && width % (2 * size) === 0) size *= 2;
  const within = treePart(width, width - 1, { until: size });
  const among = treePart(width / size, width - 1, { taken: within.taken });
  known.set(width, { size, within, among });
  return { size, within, among };
}

/** R as its blocks `[count, size, size]`, γ within, and what is above them, less the identity `[count, count]`. */
function matrices(width: number, values: TensorValues): { blocks: Value; above: Value } {
  const { size, within, among } = halvesOf(width);
  const count = width / size;
  const { a, b, c, e } = entries(values);
  const table = ops.concat([a, b, c, e, ops.full([1], 1, "float32")], 0);
  const plain = treeMatrices(within, table, size);
  const { goft_scale: scale } = values;
  return {
    blocks: scale ? ops.mul(plain, ops.reshape(scale, [count, 1, size])) : plain,
    above: ops.sub(ops.squeeze(treeMatrices(among, table, count), 0), identityMatrix(count)),
  };
}

/** Rows `[n, d]` by blocks, `[count, n, size]`, and the way back. */
const byBlock = (rows: Value, [count, size]: readonly [number, number]): Value =>
  ops.transpose(ops.reshape(rows, [-1, count, size], [rows]), [1, 0, 2]);
const asRows = (pieces: Value, like: Value): Value =>
  ops.reshape(ops.transpose(pieces, [1, 0, 2]), like.shape, [like]);

/** w·Rᵀ for rows w, R = P_L … P₁·diag(γ): what goes on from each block enters its product as one more column. */
function rotated(rows: Value, values: TensorValues): Value {
  const { blocks, above } = matrices(rows.shape.at(-1) as number, values);
  const [count, size] = blocks.shape as [number, number];
  const pieces = byBlock(rows, [count, size]);
  const firsts = ops.squeeze(ops.matmul(pieces, ops.transposeLast(ops.slice(blocks, 1, 0, 1))), 2);
  const onward = ops.unsqueeze(ops.matmul(above, firsts), 2);
  const first = ops.expand(ops.slice(identityMatrix(size), 1, 0, 1), [count, size, 1]);
  const both = ops.transposeLast(ops.concat([blocks, first], 2));
  return asRows(ops.matmul(ops.concat([pieces, onward], 2), both), rows);
}

/** x + strength·(x·R − x) for rows x, the other way round: from the top of the tree down into the blocks. */
function rotatedBack(rows: Value, values: TensorValues, strength: Value): Value {
  const { blocks, above } = matrices(rows.shape.at(-1) as number, values);
  const [count, size] = blocks.shape as [number, number];
  const pieces = byBlock(rows, [count, size]);
  const firsts = ops.squeeze(ops.slice(pieces, 2, 0, 1), 2);
  const onward = ops.unsqueeze(ops.matmul(ops.transposeLast(above), firsts), 2);
  const one = identityMatrix(size);
  const own = ops.add(one, ops.mul(ops.sub(blocks, one), strength));
  const first = ops.mul(ops.slice(blocks, 1, 0, 1), strength);
  return asRows(ops.matmul(ops.concat([pieces, onward], 2), ops.concat([own, first], 1)), rows);
}

/** (quasi-)Givens orthogonal fine-tuning (arXiv 2404.04316): W' = W·Rᵀ with R a tree of d − 1 plane rotations, or free blocks. */
export const goftMethod = {
  name: "goft",
  summary: "inputs turned by a tree of plane rotations, or nearly so",
  paper: "2404.04316",
  schema,
  kinds: ["linear", "conv"],
  tensors,
  weight: (weight, values) => rotated(weight, values),
  forward({ x, bias, gate, tensors: values, site, weight, apply }) {
    if (site.kind !== "linear") return undefined;
    // W is linear: turned inputs need no gradient of W.
    const product = apply(rotatedBack(x, values, gate), weight());
    return bias ? ops.add(product, bias) : product;
  },
  penalty(sites, { quasi, lambda }) {
    if (!quasi || lambda === 0) return undefined;
    const terms = sites.map(({ tensors: values }) => {
      const { a, b, c, e } = entries(values);
      // Columns of a block: (α1, α2) and (β1, β2).
      return ops.reduceSum(ops.square(ops.add(ops.mul(a, b), ops.mul(c, e))), undefined, false);
    });
    return ops.mul(
      terms.reduce((x, y) => ops.add(x, y)),
      lambda,
    );
  },
} satisfies Method<GoftConfig>;

/**
 * GOFT, or qGOFT with `quasi`. Throws `config-invalid` naming the field.
 *
 * @example
 * ```ts
 * import { goft } from "tunesmith/methods";
 * const adaptation = goft({ quasi: true, lambda: 0.01, targets: "all-linear" });
 * ```
 */
export const goft = (config: z.input<typeof schema> = {}): Adaptation<GoftConfig> => ({
  method: goftMethod,
  config: parseConfig("goft", schema, config),
});
