import { isTensorRef, readTensor, type TensorRef } from "../ref.js";
import type { LazyTensor } from "../safetensors/index.js";
import type { Tensor } from "../tensor.js";

/**
 * A tensor of a checkpoint: bytes that lie in the file as they are (a `TensorRef`), or values that must be unpacked
 * first (a `LazyTensor`: compressed, quantised, or a view with strides).
 */
export type StoredTensor = TensorRef | LazyTensor;

/** An open checkpoint of any container format: its names and shapes are known, its values are still in the file. */
export interface TensorContainer {
  /** Path, URL or name, for messages. */
  readonly name: string;
  readonly tensors: ReadonlyMap<string, StoredTensor>;
  /** Closes the file; its tensors can no longer be read. */
  close(): Promise<void>;
}

/**
 * The values of a stored tensor (of one in memory: itself), always contiguous.
 *
 * @example
 * ```ts
 * import { loadStored, openTorch } from "tunesmith/tensor";
 * const file = await openTorch("resnet20.th");
 * for (const [name, stored] of file.tensors) console.log(name, (await loadStored(stored)).shape);
 * await file.close();
 * ```
 */
export async function loadStored(stored: StoredTensor | Tensor): Promise<Tensor> {
  if ("load" in stored) return stored.load();
  return isTensorRef(stored) ? readTensor(stored) : stored;
}

/** All tensors of a container in memory, in its order: for adapters and other small files. */
export async function loadAll(container: Pick<TensorContainer, "tensors">): Promise<Map<string, Tensor>> {
  const loaded = new Map<string, Tensor>();
  for (const [name, stored] of container.tensors) loaded.set(name, await loadStored(stored));
  return loaded;
}
