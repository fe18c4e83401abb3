import { z } from "zod";
import { TunesmithError } from "../../errors/index.js";
import { ops, type Value } from "../../graph/index.js";
import { randomizedSvd, svd } from "../../runtime/linalg/index.js";
import { cayley, cayleySeries, identityMatrix } from "../algebra.js";
import { parseConfig, siteConfigSchema } from "../config.js";
import type { Adaptation, InitContext, Method, SiteShape, TensorSpec, TensorValues } from "../method.js";
import { skewFrom } from "./oft.js";

const schema = siteConfigSchema.extend({
  rank: z.number().int().min(2).default(32).describe("size r of the rotation in the principal subspace"),
  dropout: z.number().min(0).lt(1).default(0).describe("dropout on the input of the update while training"),
  orthogonal: z.boolean().default(true).describe("a rotation; otherwise a free r × r matrix"),
  scaleInputs: z.boolean().default(true).describe("learn factors on the subspace before the rotation"),
  scaleOutputs: z.boolean().default(true).describe("learn factors after it"),
  svd: z.enum(["full", "randomized"]).default("full").describe("how the subspace is found"),
  neumann: z.boolean().default(false).describe("Cayley's map by a series of powers instead of exactly"),
  neumannTerms: z.number().int().min(2).default(5).describe("terms of the series"),
});

/** Configuration of PSOFT, after defaults. */
export type PsoftConfig = z.infer<typeof schema>;

/** A `[r, in]` with orthonormal rows and B = U·S `[out, r]` of the r largest singular values. */
async function subspace(context: InitContext, { rank, svd: how }: PsoftConfig) {
  const { outFeatures: rows, inFeatures: cols } = context.site;
  const matrix = { rows, cols, data: await context.weight() };
  const { u, s, vt } =
    how === "full" ? svd(matrix) : await randomizedSvd(matrix, { rank, powerIterations: 10 });
  const b = new Float32Array(rows * rank);
  for (let row = 0; row < rows; row++)
    for (let k = 0; k < rank; k++)
      b[row * rank + k] = (u.data[row * u.cols + k] as number) * (s[k] as number);
  return { a: Float32Array.from(vt.data.subarray(0, rank * cols)), b };
}

function tensors(site: SiteShape, config: PsoftConfig): Record<string, TensorSpec> {
  const { rank: r } = config;
  if (r > Math.min(site.inFeatures, site.outFeatures)) {
    throw new TunesmithError("config-invalid", `psoft: rank ${r} is more than ${site.path} has dimensions`, {
      fix: `use at most ${Math.min(site.inFeatures, site.outFeatures)}`,
    });
  }
  const basis = (context: InitContext) => context.once("subspace", () => subspace(context, config));
  const ones = () => new Float32Array(r).fill(1);
  const rotation: TensorSpec = config.orthogonal
    ? { shape: [1, (r * (r - 1)) / 2], trainable: true, init: () => new Float32Array((r * (r - 1)) / 2) }
    : {
        shape: [r, r],
        trainable: true,
        init: () => Float32Array.from({ length: r * r }, (_, at) => (at % (r + 1) ? 0 : 1)),
      };
  return {
    psoft_A: {
      shape: [r, site.inFeatures],
      trainable: false,
      init: async (context) => (await basis(context)).a,
    },
    psoft_B: {
      shape: [site.outFeatures, r],
      trainable: false,
      init: async (context) => (await basis(context)).b,
    },
    psoft_R: rotation,
    ...(config.scaleInputs ? { psoft_alpha: { shape: [r], trainable: true, init: ones } } : {}),
    ...(config.scaleOutputs ? { psoft_beta: { shape: [r], trainable: true, init: ones } } : {}),
  };
}

/** C − I with C = diag(β)·R·diag(α), `[r, r]`. */
function change(values: TensorValues, config: PsoftConfig): Value {
  const { rank: r, orthogonal, neumann, neumannTerms } = config;
  const free = values.psoft_R as Value;
  const rotation = () => {
    const skew = ops.neg(ops.squeeze(skewFrom(free, r), 0));
    return neumann ? cayleySeries(skew, neumannTerms) : cayley(skew);
  };
  let c = orthogonal ? rotation() : free;
  if (values.psoft_beta) c = ops.mul(ops.unsqueeze(values.psoft_beta, 1), c);
  if (values.psoft_alpha) c = ops.mul(c, values.psoft_alpha);
  return ops.sub(c, identityMatrix(r));
}

/** Orthogonal fine-tuning in the principal subspace (arXiv 2505.11235): W' = W + B·(C − I)·A, A and B frozen. */
export const psoftMethod = {
  name: "psoft",
  summary: "a small rotation in the principal subspace of each weight",
  paper: "2505.11235",
  schema,
  kinds: ["linear"],
  tensors,
  weight(weight, values, _, config) {
    const left = ops.matmul(values.psoft_B as Value, change(values, config));
    return ops.gemm(left, values.psoft_A as Value, weight);
  },
  lowRank: (_, values, __, config) => ({
    a: values.psoft_A as Value,
    b: ops.matmul(values.psoft_B as Value, change(values, config)),
  }),
  forward({ x, y, gate, tensors: values, apply, mix, dropped }, config) {
    const input = config.dropout > 0 ? dropped(x, config.dropout) : x;
    const turned = mix(apply(input, values.psoft_A as Value), change(values, config));
    return mix(ops.mul(turned, gate), values.psoft_B as Value, { onto: y });
  },
} satisfies Method<PsoftConfig>;

/**
 * PSOFT with a configuration. Defaults are PEFT's. PEFT's own files do not hold A and B, whose signs no two
 * decompositions agree on (of 32 directions of a 192 x 192 weight, MKL and OpenBLAS differ in 6); here they are stored.
 *
 * Throws `config-invalid` naming the field.
 *
 * @example
 * ```ts
 * import { psoft } from "tunesmith/methods";
 * const adaptation = psoft({ rank: 46, targets: "all-linear" });
 * ```
 */
export const psoft = (config: z.input<typeof schema> = {}): Adaptation<PsoftConfig> => ({
  method: psoftMethod,
  config: parseConfig("psoft", schema, config),
});
