import { type ByteSource, type FileLocation, openFile } from "#io";
import { readRows, readTensor, type TensorRef, tensorNotFound } from "../ref.js";
import type { Tensor } from "../tensor.js";
import { corrupt, headerLength, parseHeader } from "./header.js";

/** An open safetensors file, or a folder of shards: its names and shapes are known, its values are still in it. */
export interface TensorFile {
  /** Path, URL or name, for messages. */
  readonly name: string;
  /** The `__metadata__` strings of the file (of the index, for shards); often just `format` = `pt`. */
  readonly metadata: ReadonlyMap<string, string>;
  /** All tensors by name, as references into the file, in the order of the header. */
  readonly entries: ReadonlyMap<string, TensorRef>;
  /** Reads one tensor; throws `tensor-not-found`. */
  read(name: string): Promise<Tensor>;
  /** Reads rows `start` to `end` (exclusive) of one tensor's first axis, and nothing else. */
  readRows(name: string, start: number, end: number): Promise<Tensor>;
  /** Closes the file; references into it can no longer be read. */
  close(): Promise<void>;
}

/**
 * Opens a safetensors file. Only its header is read, and checked whole: lengths, names, types, shapes, and that
 * the tensors cover the data without overlap or hole. `__proto__` is a name like any other.
 *
 * Throws `file-corrupt` naming file and tensor, `dtype-unsupported` for types the library does not hold, and what
 * opening the file throws.
 *
 * @param location A path, URL, `Blob`, or an open source (which `close()` then closes).
 * @example
 * ```ts
 * import { openSafetensors } from "tunesmith/tensor";
 * const file = await openSafetensors("model.safetensors");
 * for (const [name, { dtype, shape }] of file.entries) console.log(name, dtype, shape);
 * const weight = await file.read("lm_head.weight");
 * await file.close();
 * ```
 */
export async function openSafetensors(location: FileLocation | ByteSource): Promise<TensorFile> {
  const source = isSource(location) ? location : await openFile(location);
  try {
    const file = source.name;
    if (source.size < 8) {
      throw corrupt(
        file,
        `${source.size} bytes are too short for a safetensors file`,
        "download the file again",
      );
    }
    const length = headerLength(file, source.size, await source.read(0, 8));
    const { metadata, entries } = parseHeader(file, source.size, await source.read(8, length));
    const refs = new Map<string, TensorRef>();
    for (const [name, entry] of entries) refs.set(name, { ...entry, source, name });
    return tensorFile(file, metadata, refs, () => source.close());
  } catch (error) {
    await source.close();
    throw error;
  }
}

/** Puts the functions of a `TensorFile` around its entries. */
export function tensorFile(
  name: string,
  metadata: ReadonlyMap<string, string>,
  entries: ReadonlyMap<string, TensorRef>,
  close: () => Promise<void>,
): TensorFile {
  const find = (tensor: string): TensorRef => {
    const ref = entries.get(tensor);
    if (ref === undefined) throw tensorNotFound(name, tensor, entries.keys());
    return ref;
  };
  return {
    name,
    metadata,
    entries,
    read: async (tensor) => readTensor(find(tensor)),
    readRows: async (tensor, start, end) => readRows(find(tensor), start, end),
    close,
  };
}

export function isSource(location: FileLocation | ByteSource): location is ByteSource {
  return typeof location === "object" && "read" in location;
}
