import { z } from "zod";
import { constant, ops, type Value } from "../../graph/index.js";
import { tensor } from "../../tensor/index.js";
import { parseConfig, siteConfigSchema } from "../config.js";
import { digamma, logGamma } from "../gamma.js";
import type { Adaptation, Method, SiteCall, SiteTensors, TensorSpec } from "../method.js";
import { loraOptions, plainFactors } from "./lora-options.js";
import { ontoOutput, plainUpdate } from "./plain-update.js";
import { loraScale } from "./scale.js";

const schema = siteConfigSchema.extend({
  ...loraOptions,
  samples: z.number().int().positive().default(8).describe("samples n of A that a training pass averages"),
  noiseScale: z.number().min(0).default(1e-4).describe("factor on the deviation of the samples from A"),
  dirichletPrior: z
    .number()
    .positive()
    .default(0.1)
    .describe("concentration of the prior of the samples' weights: large ones want them equal"),
  klWeight: z
    .number()
    .min(0)
    .default(1e-5)
    .describe("weight of the divergence from the priors, a mean over maps"),
  evenWeights: z
    .boolean()
    .default(false)
    .describe("add the sum of the squared weights to the loss, which is least where they are equal"),
});

/** Configuration of MonteCLoRA, after defaults. */
export type MontecloraConfig = z.infer<typeof schema>;

/** Least variance, and least concentration, of samples. */
const [LEAST_VARIANCE, LEAST] = [1e-3, 1e-6];

const sum = (x: Value): Value => ops.reduceSum(x, undefined, false);

const uniform = (count: number): TensorSpec => ({
  shape: [count],
  trainable: true,
  init: ({ uniform: draw }) => draw(count, 0, 1),
});

/** Variances `[r]` of a sample's rows: the diagonal of a Wishart matrix of r degrees around exp(2·std). */
function variances({ tensors: { std_prior: std }, noise }: Pick<SiteCall, "tensors" | "noise">): Value {
  const rank = Number((std as Value).shape[0]);
  const like = constant(tensor("float32", [rank, rank], new Float32Array(rank * rank)));
  const squares = ops.reduceSum(ops.square(noise(like, "normal", "spread")), [1], false);
  return ops.max(ops.mul(ops.exp(ops.mul(std as Value, 2)), squares), LEAST_VARIANCE);
}

/** Weights `[n]` of the samples: a Dirichlet draw, by its Gaussian approximation before the softmax. */
function weights({ tensors, noise }: Pick<SiteCall, "tensors" | "noise">, samples: number): Value {
  const prior = tensors.expert_weights_prior as Value;
  const alpha = ops.max(ops.exp(prior), LEAST);
  const log = ops.log(alpha);
  const inverse = ops.div(1, alpha);
  const spread = ops.add(ops.mul(inverse, 1 - 2 / samples), ops.mul(sum(inverse), 1 / samples ** 2));
  const deviation = ops.sqrt(ops.add(ops.max(spread, LEAST), LEAST));
  const mean = ops.sub(log, ops.reduceMean(log, [0], true));
  return ops.softmax(ops.add(mean, ops.mul(deviation, noise(prior, "normal", "weights"))));
}

/** KL divergence of the Dirichlet distribution of concentrations `alpha` `[n]` from that of `prior` n times. */
export function dirichletDivergence(alpha: Value, prior: number): Value {
  const count = Number(alpha.shape[0]);
  const vector = (value: number) => constant(tensor("float32", [1], [value]));
  const total = ops.reduceSum(alpha, [0], true);
  const lengths = ops.sub(logGamma(total), sum(logGamma(alpha)));
  const known = ops.sub(ops.mul(logGamma(vector(prior)), count), logGamma(vector(prior * count)));
  const moved = sum(ops.mul(ops.sub(alpha, prior), ops.sub(digamma(alpha), digamma(total))));
  return sum(ops.add(ops.add(lengths, known), moved));
}

/** ½·Σ (v − ln v − 1), of variances `[r]` from 1. */
const varianceDivergence = (v: Value): Value => ops.mul(sum(ops.sub(ops.sub(v, ops.log(v)), 1)), 0.5);

/** The divergences that do not depend on what was drawn: those of the weights and of the Wishart matrix. */
function fixedDivergence({ tensors }: SiteTensors, { dirichletPrior }: MontecloraConfig): Value {
  const { std_prior: std, expert_weights_prior: prior } = tensors as Record<string, Value>;
  const wishart = varianceDivergence(ops.exp(ops.mul(std as Value, 2)));
  return ops.add(
    dirichletDivergence(ops.exp(prior as Value), dirichletPrior),
    ops.mul(wishart, Number((std as Value).shape[0])),
  );
}

/**
 * A of a training pass: Σ wₙ·(A + eₙ) over samples n. The weights add up to 1 and the noise of all samples has the same variances,
 * so that Σ wₙ·eₙ is one Gaussian matrix times ‖w‖: that one is drawn, n times fewer numbers. Gradients by the weights are those
 * that samples would give in the mean.
 */
function sampled(call: SiteCall, { samples, noiseScale, klWeight, evenWeights }: MontecloraConfig): Value {
  const { tensors, noise, addLoss, sites } = call;
  const a = tensors.lora_A as Value;
  const [v, w] = [variances(call), weights(call, samples)];
  if (klWeight > 0) addLoss(ops.mul(varianceDivergence(v), (klWeight * samples) / sites));
  const squares = sum(ops.square(w));
  if (evenWeights) addLoss(ops.mul(squares, 1 / sites));
  const scale = ops.mul(ops.sqrt(ops.mul(v, squares)), noiseScale);
  return ops.add(a, ops.mul(noise(a, "normal", "sample"), ops.unsqueeze(scale, 1)));
}

/**
 * MonteCLoRA (arXiv 2411.04358): LoRA whose A is, while training, a weighted mean of samples around it, with learned variances and
 * weights, and a divergence from their priors in the loss. Outside training it is LoRA.
 */
export const montecloraMethod = {
  name: "monteclora",
  summary: "low-rank update whose A is sampled while training, with learned variances",
  paper: "2411.04358",
  schema,
  kinds: ["linear"],
  tensors(site, config) {
    const { rank } = loraScale(site.path, config);
    return {
      ...plainFactors(site, rank),
      std_prior: uniform(rank),
      expert_weights_prior: uniform(config.samples),
    };
  },
  ...plainUpdate,
  forward(call, config) {
    const { x, tensors, apply, dropped, training } = call;
    const a = training ? sampled(call, config) : (tensors.lora_A as Value);
    const h = apply(config.dropout > 0 ? dropped(x, config.dropout) : x, a);
    return ontoOutput(call, h, config);
  },
  penalty(sites, config) {
    if (config.klWeight === 0) return undefined;
    const all = sites
      .map((site) => fixedDivergence(site, config))
      .reduce((one, other) => ops.add(one, other));
    return ops.mul(all, config.klWeight / sites.length);
  },
} satisfies Method<MontecloraConfig>;

/**
 * MonteCLoRA with a configuration. Defaults are PEFT's; the loss terms, which PEFT leaves to the caller, belong to the loss here.
 *
 * Throws `config-invalid` naming the field.
 *
 * @example
 * ```ts
 * import { monteclora } from "tunesmith/methods";
 * const adaptation = monteclora({ rank: 8, noiseScale: 0.01, targets: ["q_proj", "v_proj"] });
 * ```
 */
export const monteclora = (config: z.input<typeof schema> = {}): Adaptation<MontecloraConfig> => ({
  method: montecloraMethod,
  config: parseConfig("monteclora", schema, config),
});
