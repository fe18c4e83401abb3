import { z } from "zod";
import { ops, type Value } from "../../graph/index.js";
import { parseConfig } from "../config.js";
import type { Adaptation, Method, SiteShape, TensorSpec, TensorValues } from "../method.js";
import { addDropped, coreProduct, drops, hasTapFactors, lycorisSchema, tapsOf } from "./lycoris.js";
import { loraScale } from "./scale.js";

const schema = lycorisSchema.extend({
  decomposeBoth: z
    .boolean()
    .default(false)
    .describe("give the first factor low rank too where that is smaller"),
  decomposeFactor: z
    .number()
    .int()
    .refine((value) => value === -1 || value > 0, "-1 or a positive number")
    .default(-1)
    .describe("rows and columns of the first factor; -1: near the square root"),
  rankDropoutScale: z.boolean().default(false).describe("keep the mean of the outputs under rankDropout"),
  init: z
    .enum(["default", "lycoris"])
    .default("default")
    .describe("which factor starts at zero: the first, or as LyCORIS has it the second"),
});

/** Configuration of LoKr, after defaults. */
export type LokrConfig = z.infer<typeof schema>;

/** Two factors of `size`, the smaller first: `factor` and the rest, or as near to it, or to the square root, as divisors allow. */
export function kroneckerSizes(size: number, factor: number): readonly [number, number] {
  if (factor > 0 && size % factor === 0) return [factor, size / factor];
  const most = factor === -1 ? size : factor;
  let best: readonly [number, number] = [1, size];
  for (let small = 2; small <= most && small * small <= size; small++)
    if (size % small === 0) best = [small, size / small];
  return best;
}

interface Sizes {
  /** w1 is `[m1, n1]`, w2 `[m2, n2·taps]`. */
  readonly m1: number;
  readonly n1: number;
  readonly m2: number;
  readonly n2: number;
  readonly rank: number;
  readonly isSplit1: boolean;
  readonly isSplit2: boolean;
}

function sizesOf(site: SiteShape, config: LokrConfig): Sizes {
  const { rank } = loraScale(site.path, config);
  const [m1, m2] = kroneckerSizes(site.outFeatures, config.decomposeFactor);
  const [n1, n2] = kroneckerSizes(site.inFeatures / tapsOf(site), config.decomposeFactor);
  const isSplit1 = config.decomposeBoth && rank < Math.max(m1, n1) / 2;
  return { m1, n1, m2, n2, rank, isSplit1, isSplit2: rank < Math.max(m2, n2) / 2 };
}

function tensors(site: SiteShape, config: LokrConfig): Record<string, TensorSpec> {
  const { m1, n1, m2, n2, rank, isSplit1, isSplit2 } = sizesOf(site, config);
  const taps = tapsOf(site);
  const starts = (shape: readonly number[], isZero: boolean): TensorSpec => {
    const count = shape.reduce((a, b) => a * b, 1);
    const bound = 1 / Math.sqrt(count / (shape[0] as number));
    const init: TensorSpec["init"] = ({ uniform }) =>
      isZero ? new Float32Array(count) : uniform(count, -bound, bound);
    return { shape, trainable: true, init };
  };
  const first = config.init === "default";
  const specs: Record<string, TensorSpec> = isSplit1
    ? { lokr_w1_a: starts([m1, rank], first), lokr_w1_b: starts([rank, n1], false) }
    : { lokr_w1: starts([m1, n1], first) };
  if (!isSplit2) return { ...specs, lokr_w2: starts([m2, n2 * taps], !first) };
  if (!hasTapFactors(site, config))
    return {
      ...specs,
      lokr_w2_a: starts([m2, rank], false),
      lokr_w2_b: starts([rank, n2 * taps], !first),
    };
  return {
    ...specs,
    lokr_t2: starts([rank, rank, taps], false),
    lokr_w2_a: starts([rank, m2], false),
    lokr_w2_b: starts([rank, n2], !first),
  };
}

/** w1 `[m1, n1]`, scaled, and w2 `[m2, n2·taps]`. */
function factors(values: TensorValues, site: SiteShape, config: LokrConfig): { w1: Value; w2: Value } {
  const { lokr_w1_a: a1, lokr_w1_b: b1, lokr_w2_a: a2, lokr_w2_b: b2, lokr_t2: core } = values;
  const first = values.lokr_w1 ?? ops.matmul(a1 as Value, b1 as Value);
  const second =
    values.lokr_w2 ??
    (core ? coreProduct(core, a2 as Value, b2 as Value) : ops.matmul(a2 as Value, b2 as Value));
  return { w1: ops.mul(first, loraScale(site.path, config).scale), w2: second };
}

/** w1 ⊗ w2. */
function kronecker(w1: Value, w2: Value): Value {
  const [[m1, n1], [m2, n2]] = [w1.shape, w2.shape] as [[number, number], [number, number]];
  const product = ops.mul(ops.reshape(w1, [m1, 1, n1, 1]), ops.reshape(w2, [1, m2, 1, n2]));
  return ops.reshape(product, [m1 * m2, n1 * n2]);
}

/** LoKr (arXiv 2309.14859): W' = W + (α/r)·w1 ⊗ w2 with w2, or both, of low rank. */
export const lokrMethod = {
  name: "lokr",
  summary: "Kronecker product of two small matrices",
  paper: "2309.14859",
  schema,
  kinds: ["linear", "conv"],
  tensors,
  additive: () => true,
  weight(weight, values, site, config) {
    const { w1, w2 } = factors(values, site, config);
    return ops.add(weight, kronecker(w1, w2));
  },
  forward(call, config) {
    const { x, y, gate, site, tensors: values } = call;
    if (site.kind === "conv" && !drops(call, config)) return undefined;
    const { w1, w2 } = factors(values, site, config);
    const update = site.kind === "conv" ? call.apply(x, kronecker(w1, w2)) : applied(x, w1, w2);
    if (drops(call, config)) return addDropped(call, update, config, config.rankDropoutScale);
    return ops.add(y, ops.mul(update, gate));
  },
} satisfies Method<LokrConfig>;

/** (w1 ⊗ w2)·x without the product: x as a matrix `[n1, n2]` between the two. */
function applied(x: Value, w1: Value, w2: Value): Value {
  const [[m1, n1], [m2, n2]] = [w1.shape, w2.shape] as [[number, number], [number, number]];
  const inner = ops.gemm(ops.reshape(x, [-1, n2]), w2, undefined, { transB: true });
  return ops.reshape(ops.matmul(w1, ops.reshape(inner, [-1, n1, m2])), [-1, m1 * m2], [x]);
}

/**
 * LoKr with a configuration. Defaults are PEFT's. Throws `config-invalid` naming the field.
 *
 * @example
 * ```ts
 * import { lokr } from "tunesmith/methods";
 * const adaptation = lokr({ rank: 4, decomposeFactor: 8, targets: "all-linear" });
 * ```
 */
export const lokr = (config: z.input<typeof schema> = {}): Adaptation<LokrConfig> => ({
  method: lokrMethod,
  config: parseConfig("lokr", schema, config),
});
