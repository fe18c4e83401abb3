import { constant, type Value } from "../graph/index.js";
import { rng } from "../runtime/random/index.js";
import { type Tensor, tensor } from "../tensor/index.js";
import type { WeightSpec } from "./architectures/parts/weight-specs.js";
import { architectureFor, type BuildOptions, causalLm, parseConfig } from "./causal-lm.js";
import type { CausalLm, Weights } from "./types.js";

export interface InitOptions extends BuildOptions {
  /** Same seed, same weights. Default 0. */
  readonly seed?: number;
}

/** Standard deviation of fresh weights when the config names none. */
const INITIALIZER_RANGE = 0.02;

/**
 * A model with fresh random weights, to be trained from scratch: Gaussian matrices of standard deviation
 * `initializer_range` (default 0.02), those that write to the residual stream divided by sqrt(2 * layers), norms that
 * change nothing, biases of zero. Each tensor's numbers depend on the seed and its name alone.
 *
 * Throws `config-invalid`, `architecture-unsupported`.
 *
 * @param config What `config.json` would say, with `model_type`.
 * @example
 * ```ts
 * import { initModel } from "tunesmith/models";
 * const model = initModel(
 *   { model_type: "llama", vocab_size: 512, hidden_size: 64, intermediate_size: 128, num_hidden_layers: 2, num_attention_heads: 4 },
 *   { seed: 1 },
 * );
 * console.log(model.weights.size);
 * ```
 */
export function initModel(config: Readonly<Record<string, unknown>>, options: InitOptions = {}): CausalLm {
  const origin = options.origin ?? "model";
  const definition = architectureFor(String(config.model_type), origin);
  const settings = parseConfig(definition, config, origin);
  const std = initializerRange(config);
  const { layers } = definition.sizes(settings);
  const weights = freshWeights(definition.weightSpecs(settings), { std, layers, seed: options.seed ?? 0 });
  return causalLm(config, weights, options);
}

/** The standard deviation of fresh matrices that a config asks for. */
export const initializerRange = (config: Readonly<Record<string, unknown>>): number =>
  typeof config.initializer_range === "number" ? config.initializer_range : INITIALIZER_RANGE;

/** Fresh weights by their specifications; those of the residual stream are divided by sqrt(2 * layers). */
export function freshWeights(
  specs: readonly WeightSpec[],
  { std = INITIALIZER_RANGE, layers = 1, seed = 0 }: { std?: number; layers?: number; seed?: number },
): Weights {
  return new Map(
    specs.map((spec): [string, Value] => {
      const scale = spec.std ?? (spec.init === "residual" ? std / Math.sqrt(2 * layers) : std);
      return [spec.name, constant(fresh(spec, scale, seed), spec.name)];
    }),
  );
}

function fresh({ name, shape, init }: WeightSpec, std: number, seed: number): Tensor {
  const data = new Float32Array(shape.reduce((a, b) => a * b, 1));
  if (init === "ones") data.fill(1);
  else if (init !== "zeros") rng(seed, "init", name).fillNormal(data, 0, std);
  return tensor("float32", shape, data);
}
