import { z } from "zod";
import { constant, ops, type Value } from "../../graph/index.js";
import { tensor } from "../../tensor/index.js";
import { identityMatrix } from "../algebra.js";
import { parseConfig, siteConfigSchema } from "../config.js";
import type { Adaptation, Method, SiteShape, TensorSpec, TensorValues } from "../method.js";

const schema = siteConfigSchema.extend({
  variant: z
    .enum(["plus", "pi"])
    .default("plus")
    .describe("rank inflation of the factor: plus adds the identity, pi shifts row i by i places"),
  side: z
    .enum(["pre", "post"])
    .default("pre")
    .describe("the factor multiplies outputs (pre) or inputs (post)"),
  rank: z.number().int().positive().default(8).describe("rank r of B·A"),
  alpha: z.number().positive().default(16).describe("B·A is scaled by alpha / rank"),
});

/** Configuration of LoRMA, after defaults. */
export type LormaConfig = z.infer<typeof schema>;

/** Width n of the square factor. */
const widthOf = ({ inFeatures, outFeatures }: SiteShape, { side }: LormaConfig): number =>
  side === "pre" ? outFeatures : inFeatures;

function tensors(site: SiteShape, config: LormaConfig): Record<string, TensorSpec> {
  const { rank, alpha, variant } = config;
  const n = widthOf(site, config);
  const root = Math.sqrt(alpha / rank);
  const plus = variant === "plus";
  return {
    lorma_A: {
      shape: [rank, n],
      trainable: true,
      init(context) {
        const bound = 1 / Math.sqrt(n);
        if (plus) return context.uniform(rank * n, -bound, bound);
        const a = new Float32Array(rank * n);
        a[0] = 1 / root;
        return a;
      },
    },
    lorma_B: {
      shape: [n, rank],
      trainable: true,
      init(context) {
        if (plus) return new Float32Array(n * rank);
        // The first column is ones: with A's single one, s·B·A has a one in column 0 of each row, which the shift makes I.
        const bound = 1 / Math.sqrt(rank);
        return context
          .uniform(n * rank, -bound, bound)
          .map((value, at) => (at % rank === 0 ? 1 : value) / root);
      },
    },
  };
}

/** π(N)[i, j] = N[i, (j − i) mod n]: row i rotated right by i places. */
function shifted(square: Value, n: number): Value {
  const index = BigInt64Array.from({ length: n * n }, (_, at) =>
    BigInt(((at % n) - Math.floor(at / n) + n) % n),
  );
  return ops.gatherElements(square, constant(tensor("int64", [n, n], index)), 1);
}

/** M `[n, n]`; the identity at the start. */
function factor({ lorma_A: a, lorma_B: b }: TensorValues, site: SiteShape, config: LormaConfig): Value {
  const n = widthOf(site, config);
  const product = ops.mul(ops.matmul(b as Value, a as Value), config.alpha / config.rank);
  return config.variant === "plus" ? ops.add(product, identityMatrix(n)) : shifted(product, n);
}

/** Low-rank multiplicative adaptation (arXiv 2506.07621): W' = M·W or W·M, M made of low-rank factors but of full rank. */
export const lormaMethod = {
  name: "lorma",
  summary: "the weight multiplied by a cheap matrix that starts as the identity",
  paper: "2506.07621",
  schema,
  kinds: ["linear"],
  tensors,
  weight(weight, values, site, config) {
    const { lorma_A: a, lorma_B: b } = values as { lorma_A: Value; lorma_B: Value };
    const scale = config.alpha / config.rank;
    // "plus" never forms M: s·B·(A·W) or s·(W·B)·A on top of W.
    if (config.variant === "plus") {
      return config.side === "pre"
        ? ops.gemm(b, ops.matmul(a, weight), weight, { alpha: scale })
        : ops.gemm(ops.matmul(weight, b), a, weight, { alpha: scale });
    }
    const m = factor(values, site, config);
    return config.side === "pre" ? ops.matmul(m, weight) : ops.matmul(weight, m);
  },
} satisfies Method<LormaConfig>;

/**
 * LoRMA with a configuration. Throws `config-invalid` naming the field.
 *
 * @example
 * ```ts
 * import { lorma } from "tunesmith/methods";
 * const adaptation = lorma({ variant: "pi", rank: 1, targets: ["q_proj", "v_proj"] });
 * ```
 */
export const lorma = (config: z.input<typeof schema> = {}): Adaptation<LormaConfig> => ({
  method: lormaMethod,
  config: parseConfig("lorma", schema, config),
});
