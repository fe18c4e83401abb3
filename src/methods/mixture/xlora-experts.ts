import type { z } from "zod";
import type { Model } from "../../models/index.js";
import { type AdaptOptions, adapt } from "../adapt.js";
import { type Adapted, isAdapted } from "../adapted.js";
import { parseConfig } from "../config.js";
import { type ExpertSource, expertName, readExperts } from "./read-experts.js";
import { overExperts, xloraSchema } from "./xlora.js";

export interface XloraSettings extends Omit<z.input<typeof xloraSchema>, "experts"> {
  /** Folders of LoRA adapters, or adapters that are on a model; these are copied. At least one. */
  readonly experts: readonly ExpertSource[];
}

/**
 * X-LoRA (arXiv 2402.07148): LoRA adapters that were trained for this model, each for something of its own, become the experts of
 * one adapter. For every token a classifier weighs them by what the model without them thinks of it: each forward pass is
 * two. Only the classifier is trained, and trains on data of all the experts' kinds. It starts at random: near the mean of
 * the experts, not as the base. It cannot be merged, and texts are generated without a key/value cache.
 *
 * Throws `config-invalid`, `adapter-invalid` (an expert that is no plain LoRA), `target-unsupported` for a model that does not give its
 * last hidden state, and what reading the experts' folders throws.
 *
 * @example
 * ```ts
 * import { xlora } from "tunesmith/methods";
 * import { loadModel } from "tunesmith/models";
 * const model = await xlora(await loadModel("path/to/model"), { experts: ["adapters/law", "adapters/code"], layerwise: true });
 * console.log([...model.parameters.values()].filter(({ trainable }) => trainable).length);
 * ```
 */
export async function xlora<M extends Model>(
  model: M,
  { experts, ...options }: XloraSettings,
  how: AdaptOptions = {},
): Promise<Adapted<M>> {
  const base = isAdapted(model) ? model.base : model;
  const config = parseConfig("xlora", xloraSchema, { ...options, experts: experts.map(expertName) });
  return adapt(model, overExperts(base, config, await readExperts(base, experts)), how);
}
