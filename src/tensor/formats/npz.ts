import { zipSync } from "fflate";
import { type ByteSource, type FileLocation, openFile, writeFileAtomic } from "#io";
import { TunesmithError } from "../../errors/index.js";
import { tensorNotFound } from "../ref.js";
import { isSource } from "../safetensors/reader.js";
import type { Tensor } from "../tensor.js";
import { cursorOf } from "./cursor.js";
import {
  decodeNpy,
  encodeNpy,
  type NpyHeader,
  type NpyOptions,
  npyBytes,
  parseNpyHeader,
  storedNpy,
} from "./npy.js";
import { loadStored, type StoredTensor, type TensorContainer } from "./stored.js";
import { entryOffset, readEntry, readZip, type ZipEntry } from "./zip.js";

/** A header is a few hundred bytes; nobody writes one longer than this. */
const HEADER_LIMIT = 1 << 16;

/** An open `.npz` archive. */
export interface NpzFile extends TensorContainer {
  /** Arrays that cannot be read, such as those of Python objects, with the error that reading one throws. */
  readonly unreadable: ReadonlyMap<string, TunesmithError>;
  /** Reads one array; throws `tensor-not-found`, and the error of an unreadable one. */
  read(name: string): Promise<Tensor>;
}

/**
 * Opens a numpy `.npz` archive, stored or compressed. Arrays are read when they are asked for; one of Python objects does not keep the
 * others from being read.
 *
 * Throws `file-corrupt`, `format-unsupported` (encrypted archives).
 *
 * @param location A path, URL, `Blob`, or an open source (which `close()` then closes).
 * @example
 * ```ts
 * import { openNpz } from "tunesmith/tensor";
 * const file = await openNpz("expert-rollouts.npz");
 * const { shape } = await file.read("obs");
 * await file.close();
 * ```
 */
export async function openNpz(location: FileLocation | ByteSource): Promise<NpzFile> {
  const source = isSource(location) ? location : await openFile(location);
  try {
    const tensors = new Map<string, StoredTensor>();
    const unreadable = new Map<string, TunesmithError>();
    for (const [fileName, entry] of await readZip(source)) {
      if (!fileName.endsWith(".npy")) continue;
      const name = fileName.slice(0, -".npy".length);
      try {
        tensors.set(name, await openArray(source, entry, name));
      } catch (error) {
        if (!(error instanceof TunesmithError) || error.code !== "dtype-unsupported") throw error;
        unreadable.set(name, error);
      }
    }
    const read = async (name: string) => {
      const stored = tensors.get(name);
      if (stored) return loadStored(stored);
      throw unreadable.get(name) ?? tensorNotFound(source.name, name, tensors.keys());
    };
    return { name: source.name, tensors, unreadable, read, close: () => source.close() };
  } catch (error) {
    await source.close();
    throw error;
  }
}

async function openArray(source: ByteSource, entry: ZipEntry, name: string): Promise<StoredTensor> {
  const label = `${source.name}: ${name}`;
  const beginning = await readEntry(source, entry, Math.min(HEADER_LIMIT, entry.size));
  const header: NpyHeader = parseNpyHeader(cursorOf(beginning, label, "npy"), label);
  if (entry.stored) {
    const start = await entryOffset(source, entry);
    return storedNpy(source, start, header, start + entry.size, name);
  }
  const byteLength = npyBytes(header, entry.size, label);
  const load = async () => {
    const bytes = await readEntry(source, entry);
    return decodeNpy(header, bytes.subarray(header.dataStart, header.dataStart + byteLength));
  };
  return { dtype: header.type.dtype, shape: header.shape, load };
}

export interface NpzOptions extends NpyOptions {
  /** Deflate the arrays, as `numpy.savez_compressed`. Default false. */
  readonly compress?: boolean;
}

/**
 * The bytes of a `.npz` archive; the same tensors give the same bytes. Throws as `encodeNpy`, and `name-conflict` for a name twice.
 *
 * @example
 * ```ts
 * import { encodeNpz, tensor } from "tunesmith/tensor";
 * const bytes = encodeNpz([["mean", tensor("float32", [2], [0, 1])]], { compress: true });
 * ```
 */
export function encodeNpz(
  tensors: Iterable<readonly [string, Tensor]>,
  options: NpzOptions = {},
): Uint8Array {
  const files = new Map<string, Uint8Array>();
  for (const [name, value] of tensors) {
    if (files.has(`${name}.npy`)) {
      throw new TunesmithError("name-conflict", `the archive cannot hold two arrays named '${name}'`, {
        fix: "give every array its own name",
      });
    }
    files.set(`${name}.npy`, encodeNpy(value, options));
  }
  // The earliest date that zip knows, in local time as its fields are.
  return zipSync(Object.fromEntries(files), { level: options.compress ? 6 : 0, mtime: new Date(1980, 0, 1) });
}

/** Writes a `.npz` archive atomically. Throws as `encodeNpz` and `writeFileAtomic`. */
export async function writeNpz(
  path: string,
  tensors: Iterable<readonly [string, Tensor]>,
  options: NpzOptions = {},
): Promise<void> {
  await writeFileAtomic(path, encodeNpz(tensors, options));
}
