import { z } from "zod";
import { ops, type Value } from "../../graph/index.js";
import { parseConfig, siteConfigSchema } from "../config.js";
import type { Adaptation, InitContext, Method, SiteShape, TensorSpec, TensorValues } from "../method.js";
import { centreOf, coreShape, type MpoShape, mpoDecompose, mpoShape } from "./chain.js";
import {
  contractSides,
  fromThirds,
  sideOf,
  thirdsOf,
  timesLeft,
  timesRight,
  toThirds,
  turned,
} from "./contract.js";

/** Options of a chain, for adapters and whole models. */
export const chainOptions = {
  cores: z
    .number()
    .int()
    .min(3)
    .default(5)
    .describe("tensors n of each chain, odd; 3 for maps narrower than 64"),
  factors: z
    .record(z.string().regex(/^\d+$/), z.array(z.number().int().positive()))
    .default({})
    .describe("factors by the size they multiply to; default: the most even ones"),
  truncate: z.number().int().positive().optional().describe("most that a bond may have; default: exact"),
};

const schema = siteConfigSchema.extend({
  ...chainOptions,
  train: z
    .enum(["aux", "central", "all"])
    .default("aux")
    .describe("tensors that are trained: the small outer ones, the large central one, or all"),
});

/** Configuration of an adapter of chains, after defaults. */
export type MpoConfig = z.infer<typeof schema>;

const shapeAt = ({ outFeatures, inFeatures }: SiteShape, config: MpoConfig): MpoShape =>
  mpoShape(outFeatures, inFeatures, config);

/** Numbers of the outer tensors, from 0, without the central one's. */
const outerOf = (shape: MpoShape): number[] =>
  [...shape.outFactors.keys()].filter((at) => at !== centreOf(shape));

function tensors(site: SiteShape, config: MpoConfig): Record<string, TensorSpec> {
  const shape = shapeAt(site, config);
  const chain = ({ once, weight }: InitContext) =>
    once("chain", async () =>
      mpoDecompose({ rows: site.outFeatures, cols: site.inFeatures, data: await weight() }, config),
    );
  const specs: Record<string, TensorSpec> = {};
  for (const at of outerOf(shape)) {
    const start = async (context: InitContext) =>
      Float32Array.from((await chain(context)).cores[at] as Float64Array);
    const size = coreShape(shape, at);
    // The start is stored: another machine's decomposition may differ in signs, and the central tensor is found by it.
    specs[`mpo_start_${at + 1}`] = { shape: size, trainable: false, init: start };
    if (config.train !== "central") specs[`mpo_T${at + 1}`] = { shape: size, trainable: true, init: start };
  }
  if (config.train !== "aux") {
    const size = coreShape(shape, centreOf(shape));
    const init = () => new Float32Array(size.reduce((a, b) => a * b, 1));
    specs.mpo_central = { shape: size, trainable: true, init };
  }
  return specs;
}

/** Both sides of the middle, of tensors with this prefix. */
function sidesOf(values: TensorValues, shape: MpoShape, prefix: string): { left: Value; right: Value } {
  const outer = outerOf(shape).map((at) => values[`${prefix}${at + 1}`] as Value);
  const half = outer.length / 2;
  return {
    left: sideOf(outer.slice(0, half), shape, "left"),
    right: sideOf(outer.slice(half), shape, "right"),
  };
}

/** What a side becomes, less the identity: `[n, n]`, zero at the start. `basis` has orthonormal columns. */
const moved = (now: Value, basis: Value): Value => ops.matmul(ops.sub(now, basis), ops.transposeLast(basis));

/**
 * Light fine-tuning of matrix product operators (arXiv 2303.16753): W is a chain of tensors L·C·R, of which the outer ones L and
 * R are trained while the large central one stays. C = L₀ᵀ·W·R₀ᵀ comes from W and the orthonormal start, so it need not be kept,
 * and L·C·R − L₀·C·R₀ is (I + E)·W·(I + F) − W with E = (L − L₀)·L₀ᵀ, F = R₀ᵀ·(R − R₀): exactly zero at the start.
 * With `truncate`, W stays whole and only the part of it that the chain holds is changed.
 */
export const mpoMethod = {
  name: "mpo",
  summary: "the small outer tensors of the chain that each weight is factored into",
  paper: "2303.16753",
  schema,
  kinds: ["linear", "conv"],
  tensors,
  weight(weight, values, site, config) {
    const shape = shapeAt(site, config);
    const thirds = thirdsOf(shape);
    const start = sidesOf(values, shape, "mpo_start_");
    if (config.train === "central") return ops.add(weight, centralChange(values, start, shape));
    const now = sidesOf(values, shape, "mpo_T");
    const kept = held(toThirds(weight, thirds), start);
    const f = ops.transposeLast(moved(ops.transposeLast(now.right), ops.transposeLast(start.right)));
    const after = turned(kept, moved(now.left, start.left), f);
    const changed = isExact(start)
      ? fromThirds(after, thirds)
      : ops.add(weight, fromThirds(ops.sub(after, kept), thirds));
    return config.train === "all" ? ops.add(changed, centralChange(values, now, shape)) : changed;
  },
} satisfies Method<MpoConfig>;

const centralChange = (
  values: TensorValues,
  { left, right }: { left: Value; right: Value },
  shape: MpoShape,
) => contractSides(left, values.mpo_central as Value, right, shape);

/** Whether bonds have room for any weight. */
const isExact = ({ left, right }: { left: Value; right: Value }): boolean =>
  left.shape[0] === left.shape[1] && right.shape[0] === right.shape[1];

/** The part of a weight that bonds have room for: all of it unless they are truncated. */
function held(weight: Value, { left, right }: { left: Value; right: Value }): Value {
  const [rows, bond] = left.shape;
  const part = rows === bond ? weight : timesLeft(left, timesLeft(ops.transposeLast(left), weight));
  const [inner, columns] = right.shape;
  return inner === columns ? part : timesRight(timesRight(part, ops.transposeLast(right)), right);
}

/**
 * Chains of tensors in the place of weights, with a configuration: the outer tensors are trained, 6 to 13 % of a weight's numbers.
 * To share central tensors among layers, see `mpoModel`. Throws `config-invalid` naming the field.
 *
 * @example
 * ```ts
 * import { mpo } from "tunesmith/methods";
 * const adaptation = mpo({ targets: "all-linear", cores: 5 });
 * ```
 */
export const mpo = (config: z.input<typeof schema> = {}): Adaptation<MpoConfig> => ({
  method: mpoMethod,
  config: parseConfig("mpo", schema, config),
});
