import type { ByteSource } from "#io";
import { byteLengthOf, type Dtype } from "../../dtype.js";
import { corrupt, quote } from "../../safetensors/header.js";
import type { StoredTensor } from "../stored.js";
import { gather, isContiguous, spanOf } from "../strided.js";
import { type Locate, type PickledStorage, type PickledTensor, storageElements } from "./globals.js";

/** What a container gives: the object, and where its tensors are. */
export interface OpenedPickle {
  readonly value: unknown;
  readonly locate: Locate;
}

/** Throws `file-corrupt` when a storage holds fewer bytes than the pickle says. */
export function checkLength(source: ByteSource, storage: PickledStorage, bytes: number, dtype: Dtype): void {
  const wanted = storageElements(storage, dtype) * byteLengthOf(dtype, 1);
  if (bytes >= wanted) return;
  throw corrupt(
    source.name,
    `storage ${quote(storage.key)} has ${bytes} bytes instead of ${wanted}`,
    "copy or download the file again",
  );
}

/** A tensor over a storage that lies uncompressed at `base`. */
export function storedTensor(source: ByteSource, base: number, tensor: PickledTensor): StoredTensor {
  const { dtype, shape } = tensor;
  const width = byteLengthOf(dtype, 1);
  const span = spanOf(tensor, storageElements(tensor.storage, dtype), `${source.name}: a tensor`);
  const offset = base + tensor.offset * width;
  if (isContiguous(tensor)) return { dtype, shape, source, offset, byteLength: span * width, name: "" };
  return { dtype, shape, load: async () => gather(tensor, await source.read(offset, span * width)) };
}
