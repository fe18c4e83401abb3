import { type ByteSource, type FileLocation, openFile } from "#io";
import { TunesmithError } from "../../../errors/index.js";
import { byteLengthOf } from "../../dtype.js";
import { corrupt, quote } from "../../safetensors/header.js";
import { isSource } from "../../safetensors/reader.js";
import type { Tensor } from "../../tensor.js";
import { parseGrowing } from "../cursor.js";
import type { StoredTensor, TensorContainer } from "../stored.js";
import { gather, isContiguous } from "../strided.js";
import { entryOffset, readEntry, readZip, type ZipEntry } from "../zip.js";
import { type Locate, type PickledTensor, torchHost } from "./globals.js";
import { openLegacy } from "./legacy.js";
import { checkLength, type OpenedPickle, storedTensor } from "./locate.js";
import { unpickle } from "./pickle.js";
import { tensorsOf } from "./state-dict.js";

/** A checkpoint written by `torch.save`. */
export interface TorchFile extends TensorContainer {
  /**
   * The whole object: dictionaries are `Map`s, lists and tuples arrays, `torch.Size` and dtypes plain data, tensors
   * `LazyTensor`s, numpy arrays `Tensor`s.
   */
  readonly value: unknown;
}

/**
 * Opens a PyTorch checkpoint (`.pth`, `.pt`, `.bin`, `.th`), the zip format and the one before PyTorch 1.6. Nothing in the file is
 * run: the pickle may name tensors, storages, ordered dictionaries and numpy arrays, and every other name refuses it.
 * `tensors` is the state dict, wherever the usual wrappers put it, without `module.` before its names; its values are
 * read when they are asked for.
 *
 * Throws `unsafe-pickle` naming what the file asks for, `file-corrupt`, `dtype-unsupported`, and `format-unsupported` for
 * TorchScript, big-endian files and the tar format of 2016.
 *
 * @param location A path, URL, `Blob`, or an open source (which `close()` then closes).
 * @example
 * ```ts
 * import { openTorch } from "tunesmith/tensor";
 * const file = await openTorch("resnet20.th");
 * for (const [name, { dtype, shape }] of file.tensors) console.log(name, dtype, shape);
 * await file.close();
 * ```
 */
export async function openTorch(location: FileLocation | ByteSource): Promise<TorchFile> {
  const source = isSource(location) ? location : await openFile(location);
  try {
    const first = await source.read(0, Math.min(4, source.size));
    const isZip = first[0] === 0x50 && first[1] === 0x4b;
    const { value, locate } = isZip ? await openArchive(source) : await openLegacy(source);
    const tensors = new Map<string, StoredTensor>();
    for (const [name, tensor] of tensorsOf(value)) {
      tensors.set(name, await storedAs(name, tensor, locate));
    }
    return { name: source.name, value, tensors, close: () => source.close() };
  } catch (error) {
    await source.close();
    throw error;
  }
}

/** What lies in the file as it is becomes a reference, which can be mapped; the rest stays lazy. */
async function storedAs(name: string, tensor: PickledTensor | Tensor, locate: Locate): Promise<StoredTensor> {
  if (!("load" in tensor)) return { dtype: tensor.dtype, shape: tensor.shape, load: async () => tensor };
  if (!isContiguous(tensor)) return tensor;
  const stored = await locate(tensor);
  return "source" in stored ? { ...stored, name } : stored;
}

async function openArchive(source: ByteSource): Promise<OpenedPickle> {
  const entries = await readZip(source);
  const pickleName = [...entries.keys()].find((name) => name === "data.pkl" || name.endsWith("/data.pkl"));
  if (pickleName === undefined) throw notTorch(source);
  const prefix = pickleName.slice(0, -"data.pkl".length);
  if (entries.has(`${prefix}constants.pkl`)) throw unsupported(source, "it is a TorchScript program");
  await checkByteOrder(source, entries.get(`${prefix}byteorder`));
  const locate: Locate = (tensor) => locateInArchive(source, entries, prefix, tensor);
  const pickle = await readEntry(source, entries.get(pickleName) as ZipEntry);
  const inner: ByteSource = {
    name: source.name,
    size: pickle.byteLength,
    read: async (offset, length) => pickle.subarray(offset, offset + length),
    close: async () => {},
  };
  const value = await parseGrowing(inner, 0, "PyTorch", (cursor) =>
    unpickle(cursor, torchHost(source.name, locate)),
  );
  return { value, locate };
}

async function checkByteOrder(source: ByteSource, entry: ZipEntry | undefined): Promise<void> {
  if (!entry || entry.size > 16) return;
  const order = new TextDecoder().decode(await readEntry(source, entry));
  if (order !== "little") throw unsupported(source, `its byte order is ${quote(order)}`);
}

async function locateInArchive(
  source: ByteSource,
  entries: ReadonlyMap<string, ZipEntry>,
  prefix: string,
  tensor: PickledTensor,
): Promise<StoredTensor> {
  const name = `${prefix}data/${tensor.storage.key}`;
  const entry = entries.get(name);
  if (!entry)
    throw corrupt(source.name, `the storage ${quote(name)} is missing`, "copy or download the file again");
  checkLength(source, tensor.storage, entry.size, tensor.dtype);
  if (entry.stored) return storedTensor(source, await entryOffset(source, entry), tensor);
  const { dtype, shape } = tensor;
  return {
    dtype,
    shape,
    load: async () => {
      const start = tensor.offset * byteLengthOf(dtype, 1);
      return gather(tensor, (await readEntry(source, entry)).subarray(start));
    },
  };
}

function notTorch(source: ByteSource): TunesmithError {
  return unsupported(source, "the archive holds no data.pkl, so that torch.save did not write it");
}

function unsupported(source: ByteSource, why: string): TunesmithError {
  return new TunesmithError(
    "format-unsupported",
    `${source.name} cannot be read as a PyTorch checkpoint: ${why}`,
    {
      fix: "save the state dict: torch.save(model.state_dict(), path)",
      details: { file: source.name },
    },
  );
}
