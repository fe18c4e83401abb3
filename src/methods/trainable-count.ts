import type { Model } from "../models/index.js";
import type { SparselyTuned } from "./sparse/lt-sft.js";

/**
 * How many numbers of a model are trained: of a weight with chosen entries, those.
 *
 * @example
 * ```ts
 * import { adapt, lora, trainableCount } from "tunesmith/methods";
 * import { loadModel } from "tunesmith/models";
 * console.log(trainableCount(await adapt(await loadModel("path/to/model"), lora({ rank: 4 }))));
 * ```
 */
export function trainableCount(model: Model): number {
  const { places } = model as Partial<Pick<SparselyTuned<Model>, "places">>;
  return [...model.parameters.values()].reduce(
    (sum, { name, trainable, tensor }) => sum + (trainable ? (places?.get(name) ?? tensor.data).length : 0),
    0,
  );
}
