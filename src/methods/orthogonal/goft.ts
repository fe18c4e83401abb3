import { z } from "zod";
import { constant, ops, type Value } from "../../graph/index.js";
import { tensor } from "../../tensor/index.js";
import { parseConfig, siteConfigSchema } from "../config.js";
import type { Adaptation, Method, SiteShape, TensorSpec, TensorValues } from "../method.js";

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

const indices = (list: readonly number[]): Value =>
  constant(tensor("int64", [list.length], BigInt64Array.from(list, BigInt)));

/** w·Rᵀ for rows w, R = P_L … P₁·diag(γ): every plane of a level is disjoint, so a level is one gather and one sum. */
function rotate(rows: Value, values: TensorValues): Value {
  const width = rows.shape.at(-1) as number;
  const all = entries(values);
  let turned = values.goft_scale ? ops.mul(rows, values.goft_scale) : rows;
  let start = 0;
  for (const { i, j } of rotationTree(width)) {
    const end = start + i.length;
    const part = (name: "a" | "b" | "c" | "e") => ops.slice(all[name], 0, start, end);
    // x_i' = a·x_i + b·x_j and x_j' = c·x_i + e·x_j, as factors of x and of its partner; others keep 1 and 0.
    const own = spread(
      width,
      [
        [i, part("a")],
        [j, part("e")],
      ],
      1,
    );
    const other = spread(
      width,
      [
        [i, part("b")],
        [j, part("c")],
      ],
      0,
    );
    const partner = Array.from({ length: width }, (_, at) => at);
    i.forEach((from, k) => {
      [partner[from], partner[j[k] as number]] = [j[k] as number, from];
    });
    const swapped = ops.gather(turned, indices(partner), turned.shape.length - 1);
    turned = ops.add(ops.mul(turned, own), ops.mul(swapped, other));
    start = end;
  }
  return turned;
}

/** A vector of `width` numbers: `rest` but at the places given. */
function spread(width: number, parts: readonly (readonly [readonly number[], Value])[], rest: number): Value {
  const places = indices(parts.flatMap(([list]) => list));
  const updates = ops.concat(
    parts.map(([, value]) => value),
    0,
  );
  return ops.scatterElements(ops.full([width], rest, "float32"), places, updates, 0);
}

/** (quasi-)Givens orthogonal fine-tuning (arXiv 2404.04316): W' = W·Rᵀ with R a tree of d − 1 plane rotations, or free blocks. */
export const goftMethod = {
  name: "goft",
  summary: "inputs turned by a tree of plane rotations, or nearly so",
  paper: "2404.04316",
  schema,
  kinds: ["linear", "conv"],
  tensors,
  weight: (weight, values) => rotate(weight, values),
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
