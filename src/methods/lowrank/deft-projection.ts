import { z } from "zod";
import { constant, makeGraph, ops, type Value } from "../../graph/index.js";
import { evaluate } from "../../runtime/index.js";
import { type Tensor, tensor } from "../../tensor/index.js";
import { orthonormalise } from "../algebra.js";
import { parseConfig, siteConfigSchema } from "../config.js";
import type { Adaptation, InitContext, Method, SiteShape, TensorSpec, TensorValues } from "../method.js";

const schema = siteConfigSchema.extend({
  rank: z.number().int().positive().default(8).describe("columns r of P"),
  projection: z
    .enum(["relu", "qr"])
    .default("relu")
    .describe("what is removed: P·relu(P)ᵀ·W, or Q·Qᵀ·W with Q the orthonormal columns of P"),
  alpha: z
    .number()
    .positive()
    .optional()
    .describe("what takes its place is scaled by alpha / rank; default: not"),
  removeOnly: z
    .boolean()
    .default(false)
    .describe("remove and put nothing in the place (PaRa); does not start as the base"),
  dropout: z
    .number()
    .min(0)
    .lt(1)
    .default(0)
    .describe("dropout on the input of what is put in while training"),
});

/** Configuration of DEFT's projections, after defaults. */
export type DeftProjectionConfig = z.infer<typeof schema>;

const rankOf = (site: SiteShape, { rank }: DeftProjectionConfig) => Math.min(rank, site.outFeatures);

const scaleOf = (site: SiteShape, config: DeftProjectionConfig) =>
  config.alpha === undefined ? 1 : config.alpha / rankOf(site, config);

function tensors(site: SiteShape, config: DeftProjectionConfig): Record<string, TensorSpec> {
  const rank = rankOf(site, config);
  const both = (context: InitContext) => context.once("start", () => start(context, config));
  return {
    deft_P: {
      shape: [site.outFeatures, rank],
      trainable: true,
      init: async (context) => (await both(context)).p.slice(),
    },
    ...(config.removeOnly
      ? {}
      : {
          deft_R: {
            shape: [rank, site.inFeatures],
            trainable: true,
            init: async (context) => (await both(context)).r,
          },
        }),
  };
}

/** Q and the right factor N `[out, r]` of what is removed, Q·Nᵀ·W. */
function sides(
  { deft_P: p }: TensorValues,
  { projection }: DeftProjectionConfig,
): { q: Value; right: Value } {
  if (projection === "relu") return { q: p as Value, right: ops.relu(p as Value) };
  const q = orthonormalise(p as Value);
  return { q, right: q };
}

/** s·R − Nᵀ·W, `[r, in]`: what Q adds. */
function added(
  weight: Value,
  right: Value,
  values: TensorValues,
  site: SiteShape,
  config: DeftProjectionConfig,
): Value {
  const removed = ops.gemm(right, weight, undefined, { transA: true });
  if (!values.deft_R) return ops.neg(removed);
  return ops.sub(ops.mul(values.deft_R, scaleOf(site, config)), removed);
}

/** P `[out, r]` and the R `[r, in]` that puts back exactly what it removes. */
async function start({ site, weight, normal }: InitContext, config: DeftProjectionConfig) {
  const rank = rankOf(site, config);
  const p = normal(site.outFeatures * rank, 0.02);
  const matrix = (rows: number, columns: number, data: Float32Array) =>
    constant(tensor("float32", [rows, columns], data));
  const { right } = sides({ deft_P: matrix(site.outFeatures, rank, p) }, config);
  const removed = ops.gemm(right, matrix(site.outFeatures, site.inFeatures, await weight()), undefined, {
    transA: true,
    alpha: 1 / scaleOf(site, config),
  });
  const { r } = await evaluate(makeGraph("start", [], [["r", removed]]), {});
  return { p, r: (r as Tensor).data as Float32Array };
}

/**
 * DEFT's residual projection (Decompositional Efficient Fine-Tuning, NeurIPS 2025): W' = W − Q·Nᵀ·W + s·Q·R: a learned subspace of the outputs is
 * emptied, and filled anew. Not the activation-density loss of the same name, which is `deft`.
 */
export const deftProjectionMethod = {
  name: "deft-projection",
  summary: "a learned subspace of the outputs emptied and filled anew",
  paper:
    "https://proceedings.neurips.cc/paper_files/paper/2025/hash/93a34a7138bdad95e874018d5f491cc6-Abstract-Conference.html",
  schema,
  kinds: ["linear"],
  tensors,
  weight(weight, values, site, config) {
    const { q, right } = sides(values, config);
    return ops.gemm(q, added(weight, right, values, site, config), weight);
  },
  lowRank(weight, values, site, config) {
    const { q, right } = sides(values, config);
    return { a: added(weight, right, values, site, config), b: q };
  },
  forward({ x, y, bias, gate, site, tensors: values, apply, mix, dropped }, config) {
    const { q, right } = sides(values, config);
    const product = bias ? ops.sub(y, bias) : y;
    let change = ops.neg(mix(product, ops.transpose(right, [1, 0])));
    if (values.deft_R) {
      const input = config.dropout > 0 ? dropped(x, config.dropout) : x;
      change = ops.add(change, ops.mul(apply(input, values.deft_R), scaleOf(site, config)));
    }
    return mix(ops.mul(change, gate), q, { onto: y });
  },
} satisfies Method<DeftProjectionConfig>;

/**
 * DEFT's projections with a configuration. Defaults are PEFT's; like there, the rank is cut to the number of outputs.
 *
 * Throws `config-invalid` naming the field.
 *
 * @example
 * ```ts
 * import { deftProjection } from "tunesmith/methods";
 * const adaptation = deftProjection({ rank: 8, projection: "qr", targets: ["q_proj", "v_proj"] });
 * ```
 */
export const deftProjection = (config: z.input<typeof schema> = {}): Adaptation<DeftProjectionConfig> => ({
  method: deftProjectionMethod,
  config: parseConfig("deft-projection", schema, config),
});
