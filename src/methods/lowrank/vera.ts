import { z } from "zod";
import { ops, type Value } from "../../graph/index.js";
import { parseConfig, siteConfigSchema } from "../config.js";
import type { Adaptation, Method, SiteShape, TensorValues } from "../method.js";
import { sharedProjections } from "./projections.js";

const schema = siteConfigSchema.extend({
  rank: z.number().int().positive().default(256).describe("rows r of the shared random projections"),
  dInitial: z.number().positive().default(0.1).describe("start of the scaling vector d"),
  dropout: z.number().min(0).lt(1).default(0).describe("dropout on the input of the update while training"),
  projectionSeed: z.number().int().nonnegative().default(0).describe("seed of the shared projections"),
  saveProjection: z.boolean().default(true).describe("write the projections into files"),
});

/** Configuration of VeRA, after defaults. */
export type VeraConfig = z.infer<typeof schema>;

/** A scaled by d, and B scaled by b, of one site: `[r, in]` and `[out, r]`. */
function factors(values: TensorValues, site: SiteShape): { a: Value; b: Value } {
  const a = ops.slice(values.vera_A as Value, 1, 0, site.inFeatures);
  const b = ops.slice(values.vera_B as Value, 0, 0, site.outFeatures);
  return {
    a: ops.mul(a, ops.unsqueeze(values.vera_lambda_d as Value, 1)),
    b: ops.mul(b, ops.unsqueeze(values.vera_lambda_b as Value, 1)),
  };
}

/** Vector-based random matrix adaptation (arXiv 2310.11454): W' = W + diag(b)·B·diag(d)·A with A and B frozen and shared. */
export const veraMethod = {
  name: "vera",
  summary: "shared random projections with trained scaling vectors",
  paper: "2310.11454",
  schema,
  kinds: ["linear"],
  shared: (sites, { rank, projectionSeed: seed, saveProjection: stored }) =>
    sharedProjections(sites, { names: ["vera_A", "vera_B"], rowsOfA: rank, rank, seed, stored }),
  tensors: (site, { rank, dInitial }) => ({
    vera_lambda_b: {
      shape: [site.outFeatures],
      trainable: true,
      init: () => new Float32Array(site.outFeatures),
    },
    vera_lambda_d: { shape: [rank], trainable: true, init: () => new Float32Array(rank).fill(dInitial) },
  }),
  additive: () => true,
  lowRank: (_, values, site) => factors(values, site),
  weight(weight, values, site) {
    const { a, b } = factors(values, site);
    return ops.gemm(b, a, weight);
  },
  forward({ x, y, gate, tensors: values, site, apply, mix, dropped }, { dropout }) {
    const { a, b } = factors(values, site);
    const input = dropout > 0 ? dropped(x, dropout) : x;
    return mix(ops.mul(apply(input, a), gate), b, { onto: y });
  },
} satisfies Method<VeraConfig>;

/**
 * VeRA with a configuration. Defaults are PEFT's. Throws `config-invalid` naming the field.
 *
 * @example
 * ```ts
 * import { vera } from "tunesmith/methods";
 * const adaptation = vera({ rank: 64, targets: ["q_proj", "v_proj"] });
 * ```
 */
export const vera = (config: z.input<typeof schema> = {}): Adaptation<VeraConfig> => ({
  method: veraMethod,
  config: parseConfig("vera", schema, config),
});
