import { z } from "zod";
import { ops, type Value } from "../../graph/index.js";
import { parseConfig, siteConfigSchema } from "../config.js";
import type {
  Adaptation,
  Method,
  SiteCall,
  SiteShape,
  SiteTensors,
  TensorSpec,
  TensorValues,
} from "../method.js";

const schema = siteConfigSchema.extend({
  targetSparsity: z
    .number()
    .min(0)
    .lt(1)
    .default(0.4)
    .describe("share τ of each module's rows, and of its columns, that is to be closed"),
  lambda: z.number().positive().default(50).describe("weight λ of the distance from that share in the loss"),
  sigma: z.number().positive().default(0.5).describe("width of the step by which open gates are counted"),
  noise: z.number().min(0).default(0.1).describe("standard deviation of the noise on gates while training"),
  startStd: z.number().min(0).default(0.1).describe("spread of the gates' logits around 1 at the start"),
  rank: z
    .number()
    .int()
    .min(0)
    .default(0)
    .describe("rank of a low-rank update behind the same gates; 0: none"),
  gateBias: z.boolean().default(true).describe("train a change of the module's bias, gated with its rows"),
});

/** Configuration of FineGates, after defaults. */
export type FineGatesConfig = z.infer<typeof schema>;

function tensors(site: SiteShape, { rank, startStd, gateBias }: FineGatesConfig): Record<string, TensorSpec> {
  const { inFeatures, outFeatures } = site;
  const logits = (size: number): TensorSpec => ({
    shape: [size],
    trainable: true,
    init: (context) => context.normal(size, startStd).map((value) => 1 + value),
  });
  const specs: Record<string, TensorSpec> = {
    gates_columns: logits(inFeatures),
    gates_rows: logits(outFeatures),
  };
  const zeros = (...shape: number[]): TensorSpec => ({
    shape,
    trainable: true,
    init: () => new Float32Array(shape.reduce((a, b) => a * b, 1)),
  });
  if (gateBias) specs.gates_bias = zeros(outFeatures);
  if (rank > 0) {
    const bound = 1 / Math.sqrt(inFeatures);
    specs.gates_A = {
      shape: [rank, inFeatures],
      trainable: true,
      init: (context) => context.uniform(rank * inFeatures, -bound, bound),
    };
    specs.gates_B = zeros(outFeatures, rank);
  }
  return specs;
}

/** clip(tanh ℓ + ½, 0, 1): 0 up to μ = −½, 1 from μ = ½ on. */
const openness = (logits: Value, noise?: Value): Value => {
  const mean = ops.add(ops.tanh(logits), 0.5);
  return ops.clip(noise ? ops.add(mean, noise) : mean, 0, 1);
};

/** Φ((μ + ½) / σ), the share of draws that leave a gate open, averaged over gates. */
function expectedOpen(logits: Value, sigma: number): Value {
  const z = ops.mul(ops.add(ops.tanh(logits), 0.5), 1 / (sigma * Math.SQRT2));
  return ops.reduceMean(ops.mul(ops.add(ops.erf(z), 1), 0.5), undefined, false);
}

const core = (weight: Value, { gates_A: a, gates_B: b }: TensorValues): Value =>
  a && b ? ops.gemm(b, a, weight) : weight;

/** diag(rows) · (W + B·A) · diag(columns) */
const gated = (weight: Value, tensors: TensorValues, rows: Value, columns: Value): Value =>
  ops.mul(ops.mul(core(weight, tensors), ops.unsqueeze(rows, 1)), columns);

const gatedBias = (bias: Value | undefined, change: Value | undefined, rows: Value): Value | undefined => {
  const sum = bias && change ? ops.add(bias, change) : (change ?? bias);
  return sum && ops.mul(sum, rows);
};

function penalty(sites: readonly SiteTensors[], { lambda, sigma, targetSparsity }: FineGatesConfig) {
  if (sites.length === 0) return undefined;
  const distance = (logits: Value | undefined) =>
    ops.abs(ops.sub(expectedOpen(logits as Value, sigma), ops.scalar(1 - targetSparsity)));
  const terms = sites.flatMap(({ tensors }) => [
    distance(tensors.gates_rows),
    distance(tensors.gates_columns),
  ]);
  const sum = terms.reduce((a, b) => ops.add(a, b));
  return ops.mul(sum, lambda / (2 * sites.length));
}

/** FineGates (arXiv 2412.12951): y = ω_r ⊙ (W·(ω_c ⊙ x) + b), gates in [0, 1] that close while training. */
export const fineGatesMethod = {
  name: "fine-gates",
  summary: "gates on rows and columns that close, so that the adapted model can be cut smaller",
  paper: "2412.12951",
  schema,
  kinds: ["linear"],
  tensors,
  weight: (weight, values) =>
    gated(weight, values, openness(values.gates_rows as Value), openness(values.gates_columns as Value)),
  biasDelta(values, _site, _config, bias) {
    const after = gatedBias(bias, values.gates_bias, openness(values.gates_rows as Value));
    return after && bias ? ops.sub(after, bias) : after;
  },
  forward(call, config) {
    return call.training && config.noise > 0 ? noisy(call, config) : undefined;
  },
  penalty,
} satisfies Method<FineGatesConfig>;

/** The same with noise on the gates, as it is trained. */
function noisy(
  { x, gate, weight, apply, noise, tensors: values, bias }: SiteCall,
  { noise: std }: FineGatesConfig,
): Value {
  const draw = (logits: Value, part: string) => openness(logits, ops.mul(noise(logits, "normal", part), std));
  const rows = draw(values.gates_rows as Value, "rows");
  const columns = draw(values.gates_columns as Value, "columns");
  const { gates_A: a, gates_B: b } = values;
  const outer = (onto?: Value) =>
    ops.gemm(ops.unsqueeze(ops.mul(rows, gate), 1), ops.unsqueeze(columns, 0), onto);
  // The map is applied once, with weights that are as far gated as the adapter is strong.
  const kept = ops.mul(weight(), outer(ops.sub(1, gate)));
  const product = apply(x, a && b ? ops.add(kept, ops.mul(ops.gemm(b, a), outer())) : kept);
  const after = gatedBias(bias, values.gates_bias, rows);
  if (!after) return product;
  const change = ops.mul(bias ? ops.sub(after, bias) : after, gate);
  return ops.add(product, bias ? ops.add(bias, change) : change);
}

/**
 * FineGates with a configuration.
 *
 * Throws `config-invalid` naming the field.
 *
 * @example
 * ```ts
 * import { fineGates } from "tunesmith/methods";
 * const adaptation = fineGates({ targetSparsity: 0.3, targets: "all-linear" });
 * ```
 */
export const fineGates = (config: z.input<typeof schema> = {}): Adaptation<FineGatesConfig> => ({
  method: fineGatesMethod,
  config: parseConfig("fine-gates", schema, config),
});
