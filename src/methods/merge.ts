import { constant, makeGraph, type Value } from "../graph/index.js";
import { inputsOf, type Model, type Parameters, parameterFeeds, probeOutputs } from "../models/index.js";
import { evaluate } from "../runtime/index.js";
import { readTensor, type Tensor } from "../tensor/index.js";
import type { Adapted } from "./adapted.js";
import type { Adapter } from "./adapter.js";
import { changesOf, type TensorChange } from "./effective.js";
import { mergeReceipt, type Receipted } from "./receipt.js";
import { reweighted } from "./reweighted.js";

export interface MergeOptions {
  /** Merge adapters that change nothing. Default false. */
  readonly allowNoEffect?: boolean;
}

/**
 * The active adapters folded into the weights: a plain model of the base's size, with the same outputs, and the receipt
 * of the merge. The adapted model and its base stay as they are, so unmerging is keeping `model`.
 *
 * Throws `adapter-no-effect`, `adapter-invalid` (a tensor that is not finite) and `numerical-failure` when the merged
 * logits are not the adapted ones within 1e-4 of the largest.
 *
 * @example
 * ```ts
 * import { formatReceipt, loadAdapter, merge } from "tunesmith/methods";
 * import { loadModel } from "tunesmith/models";
 * const merged = await merge(await loadAdapter(await loadModel("model"), "adapter"));
 * console.log(formatReceipt(merged.receipt));
 * ```
 */
export async function merge<M extends Model>(
  model: Adapted<M>,
  options: MergeOptions = {},
): Promise<M & Receipted> {
  const used = model.active.flatMap((name) => model.adapters.get(name) ?? []);
  const changes = new Map<string, Value>();
  for (const change of changesOf(probeOutputs(model.base), used)) {
    const name = `${change.path}.${change.leaf}`;
    changes.set(
      `${change.path}/${change.leaf}`,
      constant(await mergedTensor(change, used, model.base), name),
    );
  }
  const merged = reweighted(model.base, changes);
  return { ...merged, receipt: await mergeReceipt(model, merged, options) };
}

/** One merged tensor; each is computed by a session of its own, so that memory stays that of one weight. */
async function mergedTensor(
  change: TensorChange,
  adapters: readonly Adapter[],
  base: Model,
): Promise<Tensor> {
  const parameters: Parameters = new Map([
    ...base.parameters,
    ...adapters.flatMap((adapter) => [...adapter.parameters]),
  ]);
  const { source, name } = change.after;
  // A tensor trained whole is copied: training on must not reach into the merged model.
  const whole = source.kind === "input" ? parameters.get(String(name))?.tensor : undefined;
  if (whole) return { ...whole, data: whole.data.slice() } as Tensor;
  if (source.kind === "constant") return readTensor(source.data);
  const inputs = inputsOf([change.after]);
  const graph = makeGraph(`merge ${change.path}`, inputs, [["merged", change.after]]);
  const { merged } = await evaluate(graph, parameterFeeds(graph, parameters));
  return merged as Tensor;
}
