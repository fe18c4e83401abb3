import { z } from "zod";
import { TunesmithError } from "../../errors/index.js";
import { ops, type Value } from "../../graph/index.js";
import { identityMatrix } from "../algebra.js";
import { parseConfig, siteConfigSchema } from "../config.js";
import type { Adaptation, InitContext, Method, TensorValues } from "../method.js";

const schema = siteConfigSchema.extend({
  rank: z.number().int().positive().default(8).describe("reflections r"),
  gramSchmidt: z.boolean().default(false).describe("orthogonal reflection planes, one after the other"),
  regularizer: z.number().min(0).default(0).describe("weight of ‖I − UᵀU‖² in the loss"),
  regularizerNorm: z
    .enum(["squared", "plain"])
    .default("squared")
    .describe("the norm squared, as in the paper, or itself, as in the authors' code for LLaMA"),
  init: z
    .enum(["paired", "random", "soft"])
    .default("paired")
    .describe(
      "paired: equal neighbours, which cancel (even rank); random: not the identity; soft: nearly it, from short vectors that are not quite normalised",
    ),
});

/** Configuration of HRA, after defaults. */
export type HraConfig = z.infer<typeof schema>;

const column = (u: Value, at: number): Value => ops.slice(u, 1, at, at + 1);

/** Added to squared lengths where vectors are only nearly normalised; the authors' code for LLaMA. */
const SOFTNESS = 1e-4;

/** Columns of unit length, orthogonal to those before them when asked. */
function units(v: Value, { gramSchmidt, init }: HraConfig): Value {
  const soft = (x: Value) => ops.sqrt(ops.add(ops.reduceSum(ops.square(x), [0]), SOFTNESS));
  const unit = (x: Value) => ops.div(x, init === "soft" ? soft(x) : ops.reduceL2(x, [0]));
  if (!gramSchmidt) return unit(v);
  const done: Value[] = [];
  for (let at = 0; at < (v.shape[1] as number); at++) {
    const left = done.reduce(
      (x, u) => ops.sub(x, ops.mul(ops.reduceSum(ops.mul(u, x), [0]), u)),
      column(v, at),
    );
    done.push(unit(left));
  }
  return ops.concat(done, 1);
}

/**
 * Γ `[r, r]` of the compact form (I − 2u₁u₁ᵀ)…(I − 2u_ru_rᵀ) = I + U·Γ·Uᵀ: each reflection adds the column
 * −2·(e_k + Γ·Uᵀu_k).
 */
function compact(u: Value, rank: number): Value {
  const gram = ops.gemm(u, u, undefined, { transA: true });
  const one = identityMatrix(rank);
  let gamma = ops.mul(one, 0);
  for (let k = 0; k < rank; k++) {
    const next = ops.mul(ops.add(column(one, k), ops.matmul(gamma, column(gram, k))), -2);
    gamma = ops.add(gamma, ops.matmul(next, ops.transpose(column(one, k), [1, 0])));
  }
  return gamma;
}

/** The update as a low-rank product: H = I + A·Uᵀ with A = U·Γ, both `[in, r]`. */
function factors({ hra_u: v }: TensorValues, config: HraConfig): { a: Value; u: Value } {
  const u = units(v as Value, config);
  return { a: ops.matmul(u, compact(u, config.rank)), u };
}

function start({ uniform, site }: InitContext, { rank, init }: HraConfig): Float32Array {
  const bound = 1 / Math.sqrt(site.inFeatures);
  // Kaiming's bound with a = 1 / 1e-4: vectors so short that reflections hardly act.
  if (init === "soft") {
    const short = SOFTNESS * Math.sqrt(6 / site.inFeatures);
    return uniform(site.inFeatures * rank, -short, short);
  }
  if (init === "random") return uniform(site.inFeatures * rank, -bound, bound);
  if (rank % 2 !== 0) {
    throw new TunesmithError("config-invalid", `hra: the paired start needs an even rank, not ${rank}`, {
      fix: "use an even rank, or init: random, which does not start as the base",
    });
  }
  const half = uniform((site.inFeatures * rank) / 2, -bound, bound);
  return Float32Array.from({ length: site.inFeatures * rank }, (_, at) => half[Math.floor(at / 2)] as number);
}

/** ‖I − UᵀU‖² of a site, or its root. */
function gap(values: TensorValues, config: HraConfig): Value {
  const u = units(values.hra_u as Value, config);
  const one = identityMatrix(config.rank);
  const square = ops.reduceSum(
    ops.square(ops.sub(one, ops.gemm(u, u, undefined, { transA: true }))),
    undefined,
    false,
  );
  return config.regularizerNorm === "plain" ? ops.sqrt(ops.add(square, 1e-12)) : square;
}

/** Householder reflection adaptation (arXiv 2405.17484): W' = W·H₁…H_r, orthogonal by construction and low-rank at once. */
export const hraMethod = {
  name: "hra",
  summary: "inputs reflected by a chain of learned Householder reflections",
  paper: "2405.17484",
  schema,
  kinds: ["linear", "conv"],
  tensors: (site, config) => ({
    hra_u: {
      shape: [site.inFeatures, config.rank],
      trainable: true,
      init: (context) => start(context, config),
    },
  }),
  weight(weight, values, _, config) {
    const { a, u } = factors(values, config);
    return ops.gemm(ops.matmul(weight, a), u, weight, { transB: true });
  },
  lowRank(weight, values, _, config) {
    const { a, u } = factors(values, config);
    return { a: ops.transpose(u, [1, 0]), b: ops.matmul(weight, a) };
  },
  forward({ x, y, gate, tensors: values, weight, apply, mix }, config) {
    const { a, u } = factors(values, config);
    const down = apply(x, ops.transpose(u, [1, 0]));
    return mix(ops.mul(down, gate), ops.matmul(weight(), a), { onto: y });
  },
  penalty(sites, config) {
    if (config.regularizer === 0) return undefined;
    const terms = sites.map(({ tensors }) => gap(tensors, config));
    return ops.mul(
      terms.reduce((a, b) => ops.add(a, b)),
      config.regularizer,
    );
  },
} satisfies Method<HraConfig>;

/**
 * HRA with a configuration. Defaults are PEFT's. Throws `config-invalid` naming the field.
 *
 * @example
 * ```ts
 * import { hra } from "tunesmith/methods";
 * const adaptation = hra({ rank: 8, targets: ["q_proj", "v_proj"] });
 * ```
 */
export const hra = (config: z.input<typeof schema> = {}): Adaptation<HraConfig> => ({
  method: hraMethod,
  config: parseConfig("hra", schema, config),
});
