import { TunesmithError } from "../errors/index.js";
import { constant, type Value } from "../graph/index.js";
import { tensor, toFloat32 } from "../tensor/index.js";
import type { AnyDefinition } from "./architectures/index.js";
import { architectureFor, causalLm, parseConfig } from "./causal-lm.js";
import { frozenTensor } from "./stored.js";
import type { CausalLm, Model } from "./types.js";

export interface DeepenOptions {
  /** Layers of the result, at least those there are. */
  readonly layers: number;
  /**
   * Factor of what a layer that is a copy writes to the residual stream. Default 1/√(2·layers), so that all layers together
   * change it by an amount that does not grow with their number; 0 leaves the model's outputs as they were.
   */
  readonly scale?: number | undefined;
}

/**
 * A deeper model: each layer is followed by copies of itself until there are `layers`, spread evenly, and the copies' writing
 * to the residual stream is scaled down. Each layer has weights of its own, over the same numbers in memory where they are not scaled. It is a plain
 * model: save it, train it, or share its weights among layers (`mpoModel` of tunesmith/methods).
 *
 * Its outputs are near those of `model` for a small `scale`, and not equal to them unless it is 0.
 *
 * Throws `config-invalid` for fewer layers than there are, `architecture-unsupported` for models other than causal
 * language models of the project's own architectures, `adapter-invalid` for a model with adapters.
 *
 * @example
 * ```ts
 * import { deepenModel, loadModel, saveModel } from "tunesmith/models";
 * const deep = await deepenModel(await loadModel("path/to/model"), { layers: 24 });
 * await saveModel(deep, "path/to/deeper");
 * ```
 */
export async function deepenModel(model: CausalLm, options: DeepenOptions): Promise<CausalLm> {
  const definition = definitionOf(model);
  const { layers, scale = 1 / Math.sqrt(2 * layers) } = options;
  const config = parseConfig(definition, model.config, model.origin ?? "model");
  const sources = sourcesOf(layers, model.sizes.layers);
  const untied = model.weights.has(definition.tieable.output) ? { tie_word_embeddings: false } : {};
  const deeper = { ...model.config, ...definition.withLayers(config, sources), ...untied };
  const residual = new Set(
    definition
      .weightSpecs(config)
      .flatMap(({ name, init }) => (init === "residual" ? [name, name.replace(/weight$/, "bias")] : [])),
  );
  const weights = new Map<string, Value>();
  for (const [name, weight] of model.weights) {
    const parts = inLayer(name, definition.layerList);
    if (!parts) weights.set(name, weight);
    for (const [layer, source] of parts ? sources.entries() : []) {
      if (source !== parts?.layer) continue;
      const copy = `${definition.layerList}.${layer}.${parts.rest}`;
      const isCopy = sources[layer - 1] === source;
      weights.set(copy, await copied(weight, copy, isCopy && residual.has(name) ? scale : 1));
    }
  }
  return causalLm(deeper, weights, { origin: model.origin, tokenizer: model.tokenizer });
}

function definitionOf(model: Model): AnyDefinition {
  if (model.parameters.size > 0) {
    throw new TunesmithError(
      "adapter-invalid",
      "the model has adapters or unfrozen weights: they fit its layers",
      {
        fix: "deepen the base, or merge(model) or freeze(model)",
      },
    );
  }
  if (model.task !== "causal-lm" || model.architecture === "onnx" || model.quantization) {
    throw new TunesmithError(
      "architecture-unsupported",
      `a model of ${model.architecture} cannot be deepened`,
      {
        fix: "deepen a causal language model that was loaded from a folder, in floats",
      },
    );
  }
  return architectureFor(model.architecture, model.origin ?? "model");
}

/** Which layer each layer of the result is a copy of. */
function sourcesOf(layers: number, given: number): number[] {
  if (Number.isInteger(layers) && layers >= given)
    return Array.from({ length: layers }, (_, layer) => Math.floor((layer * given) / layers));
  throw new TunesmithError("config-invalid", `layers: ${layers} are not more than the ${given} there are`, {
    fix: `give a whole number of at least ${given}`,
  });
}

function inLayer(name: string, list: string): { layer: number; rest: string } | undefined {
  if (!name.startsWith(`${list}.`)) return undefined;
  const [layer, ...rest] = name.slice(list.length + 1).split(".");
  return { layer: Number(layer), rest: rest.join(".") };
}

/** A weight of its own, not a tied one, over the same numbers where they are not scaled. */
async function copied(weight: Value, name: string, scale: number): Promise<Value> {
  if (scale === 1 && weight.source.kind === "constant") return constant(weight.source.data, name);
  const whole = await frozenTensor(weight);
  const data = toFloat32(whole).map((value) => value * scale);
  return constant(tensor("float32", whole.shape, data), name);
}
