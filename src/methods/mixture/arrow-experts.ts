import type { z } from "zod";
import type { Model } from "../../models/index.js";
import { type AdaptOptions, adapt } from "../adapt.js";
import { type Adapted, isAdapted } from "../adapted.js";
import { parseConfig } from "../config.js";
import { arrowSchema, overDirections } from "./arrow.js";
import { type ExpertSource, expertName, readExperts } from "./read-experts.js";

export interface ArrowSettings extends Omit<z.input<typeof arrowSchema>, "experts" | "general"> {
  /** Folders of LoRA adapters, or adapters that are on a model; these are copied. At least one, of equal ranks and modules. */
  readonly experts: readonly ExpertSource[];
  /** Adapters of general knowledge, alike: their mean is taken off every expert's factors. Default: none. */
  readonly general?: readonly ExpertSource[];
}

/**
 * Arrow (arXiv 2405.11157): LoRA adapters that were trained for this model, each for something of its own, become the experts of
 * one adapter, without training or data. At every module a token goes to the `topK` experts whose main input directions it has
 * most of. It cannot be merged; texts are generated with a key/value cache.
 *
 * Throws `config-invalid`, `adapter-invalid` (an expert that is no plain LoRA of linear maps, or not like the others), and what
 * reading the experts' folders throws.
 *
 * @example
 * ```ts
 * import { arrow } from "tunesmith/methods";
 * import { generate, loadModel } from "tunesmith/models";
 * const model = await arrow(await loadModel("path/to/model"), { experts: ["adapters/law", "adapters/code"], topK: 1 });
 * console.log((await generate(model, "The court")).text);
 * ```
 */
export async function arrow<M extends Model>(
  model: M,
  { experts, general = [], ...options }: ArrowSettings,
  how: AdaptOptions = {},
): Promise<Adapted<M>> {
  const base = isAdapted(model) ? model.base : model;
  const names = { experts: experts.map(expertName), general: general.map(expertName) };
  const config = parseConfig("arrow", arrowSchema, { ...options, ...names });
  const read = await readExperts(base, [...experts, ...general]);
  const adaptation = overDirections(config, read.slice(0, experts.length), read.slice(experts.length));
  return adapt(model, adaptation, how);
}
