import { TunesmithError } from "../errors/index.js";
import { constant, type Value } from "../graph/index.js";
import { type Model, type Outputs, probeOutputs, storedOf } from "../models/index.js";
import type { Adapted } from "./adapted.js";
import type { Adapter } from "./adapter.js";
import { changesOf, type TensorChange } from "./effective.js";
import { mergedTensor } from "./merged-tensor.js";
import { mergeQuantized, type QuantizedMergeOptions } from "./quantized-merge.js";
import { mergeReceipt, type Receipted } from "./receipt.js";
import { reweighted } from "./reweighted.js";
import { tensorUses } from "./saved.js";

export interface MergeOptions extends QuantizedMergeOptions {
  /** Merge adapters that change nothing. Default false. */
  readonly allowNoEffect?: boolean;
}

/**
 * The active adapters folded into the weights: a plain model of the base's size, with the same outputs, and the receipt
 * of the merge. The adapted model and its base stay as they are, so unmerging is keeping `model`.
 *
 * A base whose weights are quantised has no place for small changes: `quantized` says what becomes of them.
 *
 * Throws `quantized-base` when it must and does not, `adapter-no-effect`, `adapter-invalid` (a tensor that is not finite) and `numerical-failure` when the merged
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
  checkMergeable(used);
  const kept = await mergeQuantized(model, used, options);
  if (kept) return kept;
  const changes = new Map<string, Value>();
  const outputs = probeOutputs(model.base);
  const named = namesIn(model.base, outputs);
  for (const change of changesOf(outputs, used)) {
    const name = named(change);
    changes.set(
      `${change.path}/${change.leaf}`,
      constant(await mergedTensor(change, used, model.base), name),
    );
  }
  const merged = reweighted(model.base, changes);
  return { ...merged, receipt: await mergeReceipt(model, merged, { allowNoEffect: options.allowNoEffect }) };
}

function checkMergeable(adapters: readonly Adapter[]): void {
  for (const { name, adaptation } of adapters) {
    const { method, config } = adaptation;
    const reason = method.unmergeable?.(config);
    if (reason === undefined) continue;
    throw new TunesmithError(
      "not-mergeable",
      `adapter '${name}' (${method.name}) cannot be merged: ${reason}`,
      {
        fix: "keep the adapter apart; exports of adapted models hold it as it is",
        details: { adapter: name, method: method.name },
      },
    );
  }
}

/**
 * What merged tensors are called: `module.path.leaf`. In a graph from a file they keep the names they have there, but for
 * those that several modules read.
 */
function namesIn(base: Model, outputs: Outputs): (change: TensorChange) => string {
  const ofModule = ({ path, leaf }: TensorChange) => `${path}.${leaf}`;
  if (base.architecture !== "onnx") return ofModule;
  const readers = new Map<string, Set<string>>();
  for (const { path, name } of tensorUses(outputs))
    readers.set(name, (readers.get(name) ?? new Set()).add(path));
  return (change) => {
    const stored = change.before && storedOf(change.before)?.name;
    return stored !== undefined && readers.get(stored)?.size === 1 ? stored : ofModule(change);
  };
}
