import { dirname, fileExists, joinPath, listDir, readText, remove, stat, writeFileAtomic } from "#io";
import { TunesmithError } from "../../errors/index.js";
import { byteLengthOf } from "../dtype.js";
import type { TensorRef } from "../ref.js";
import { elementCount } from "../tensor.js";
import { corrupt, quote } from "./header.js";
import { duplicateKey } from "./json.js";
import { openSafetensors, type TensorFile, tensorFile } from "./reader.js";
import { compareNames, type SafetensorsOptions, type WritableTensor, writeSafetensors } from "./writer.js";

/** As much as Hugging Face puts into one file. */
const DEFAULT_SHARD_BYTES = 5_000_000_000;

export interface ShardedOptions extends SafetensorsOptions {
  /** A shard is closed before it grows beyond this many bytes of data; a larger tensor has its own. Default 5e9. */
  readonly maxShardBytes?: number;
  /** `model` by default: `model.safetensors`, or `model-00001-of-00002.safetensors` and the index beside it. */
  readonly baseName?: string;
}

/**
 * Opens a checkpoint that may be spread over several files: a folder with `model.safetensors.index.json` or
 * `model.safetensors`, an index file, or one safetensors file. Every shard must be there and hold exactly the
 * tensors that the index says.
 *
 * Throws `file-not-found` (no checkpoint, a shard missing), `tensor-not-found` (a tensor missing from its shard),
 * `file-corrupt` (a bad index, a tensor that it does not list), and what `openSafetensors` throws.
 *
 * @param baseName `model` by default; `adapter_model` for adapters.
 * @example
 * ```ts
 * import { openSharded } from "tunesmith/tensor";
 * const model = await openSharded("checkpoint");
 * console.log(model.entries.size);
 * await model.close();
 * ```
 */
export async function openSharded(path: string, baseName = "model"): Promise<TensorFile> {
  if (!(await stat(path)).isDirectory) {
    return path.endsWith(".json") ? openIndex(path) : openSafetensors(path);
  }
  const index = joinPath(path, `${baseName}.safetensors.index.json`);
  if (await fileExists(index)) return openIndex(index);
  const single = joinPath(path, `${baseName}.safetensors`);
  if (await fileExists(single)) return openSafetensors(single);
  const others = (await listDir(path)).filter((name) => name.endsWith(".safetensors"));
  throw new TunesmithError("file-not-found", `${path}: no ${baseName}.safetensors and no index of shards`, {
    fix:
      others.length > 0
        ? `name the file itself; there are: ${others.join(", ")}`
        : "choose the checkpoint's folder",
    details: { path, baseName },
  });
}

async function openIndex(path: string): Promise<TensorFile> {
  const { metadata, shards } = parseIndex(path, await readText(path));
  const open: TensorFile[] = [];
  const close = async () => {
    for (const file of open) await file.close();
  };
  try {
    const entries = new Map<string, TensorRef>();
    for (const [shard, names] of shards) {
      const file = await openShard(path, shard);
      open.push(file);
      takeShard(path, file, names, entries);
    }
    return tensorFile(path, metadata, entries, close);
  } catch (error) {
    await close();
    throw error;
  }
}

async function openShard(index: string, shard: string): Promise<TensorFile> {
  const path = joinPath(dirname(index), shard);
  if (await fileExists(path)) return openSafetensors(path);
  throw new TunesmithError("file-not-found", `${path}: missing, but named in ${index}`, {
    fix: "download the missing shard into the same folder",
    details: { path, index },
  });
}

function takeShard(
  index: string,
  file: TensorFile,
  names: ReadonlySet<string>,
  entries: Map<string, TensorRef>,
): void {
  for (const name of names) {
    if (file.entries.has(name)) continue;
    throw new TunesmithError(
      "tensor-not-found",
      `${file.name}: tensor ${quote(name)} is missing, which ${index} places there`,
      {
        fix: "download index and shards again from one source",
        details: { file: file.name, index, name },
      },
    );
  }
  for (const [name, ref] of file.entries) {
    if (!names.has(name)) {
      throw corrupt(
        file.name,
        `tensor ${quote(name)} is not listed in ${index} for this file`,
        "index and shards are of different versions: download them again from one source",
        { name, index },
      );
    }
    entries.set(name, ref);
  }
}

interface ShardIndex {
  readonly metadata: ReadonlyMap<string, string>;
  /** Tensor names by shard, in the order of first mention. */
  readonly shards: ReadonlyMap<string, ReadonlySet<string>>;
}

function parseIndex(path: string, text: string): ShardIndex {
  const root = parseObject(path, text);
  const map = root.weight_map;
  if (typeof map !== "object" || map === null || Array.isArray(map)) {
    throw corrupt(path, "it has no weight_map object", "write or download the index again");
  }
  const shards = new Map<string, Set<string>>();
  for (const [name, shard] of Object.entries(map)) {
    // A name with a path in it could open files outside the checkpoint's folder.
    if (typeof shard !== "string" || !/^[^/\\:]+\.safetensors$/.test(shard)) {
      throw corrupt(
        path,
        `tensor ${quote(name)} is placed in ${typeof shard === "string" ? quote(shard) : `a value of type ${typeof shard}`}`,
        "name a .safetensors file in the folder of the index",
        { name },
      );
    }
    const names = shards.get(shard) ?? new Set();
    shards.set(shard, names.add(name));
  }
  const metadata = Object.entries(root.metadata ?? {}).flatMap(([key, value]): [string, string][] =>
    typeof value === "string" || typeof value === "number" ? [[key, String(value)]] : [],
  );
  return { metadata: new Map(metadata), shards };
}

function parseObject(path: string, text: string): Record<string, unknown> {
  let root: unknown;
  try {
    root = JSON.parse(text);
  } catch (cause) {
    throw corrupt(path, "it is not JSON", "write or download the index again", { cause });
  }
  const twice = duplicateKey(text);
  if (twice !== undefined)
    throw corrupt(path, `it has the key ${quote(twice)} twice`, "write or download the index again");
  return typeof root === "object" && root !== null ? { ...root } : {};
}

/**
 * Writes tensors into one file, or into shards with an index when they exceed `maxShardBytes`, in the order given.
 * It replaces an older checkpoint of the same base name: its index goes first, so that an interrupted run is never
 * read as a mix, and its other files go last.
 *
 * Throws as `writeSafetensors`; the folder must exist.
 *
 * @returns The names of the files written, the index last.
 * @example
 * ```ts
 * import { openSharded, writeSharded } from "tunesmith/tensor";
 * const model = await openSharded("checkpoint");
 * await writeSharded("copy", model.entries, { maxShardBytes: 2e9, metadata: { format: "pt" } });
 * ```
 */
export async function writeSharded(
  folder: string,
  tensors: Iterable<readonly [string, WritableTensor]>,
  options: ShardedOptions = {},
): Promise<string[]> {
  const { maxShardBytes = DEFAULT_SHARD_BYTES, baseName = "model", metadata } = options;
  const { shards, total } = split(tensors, maxShardBytes);
  const index = `${baseName}.safetensors.index.json`;
  await remove(joinPath(folder, index));
  const files: string[] = [];
  const places: [string, string][] = [];
  for (const [i, shard] of shards.entries()) {
    const file = shards.length === 1 ? `${baseName}.safetensors` : shardName(baseName, i, shards.length);
    await writeSafetensors(joinPath(folder, file), shard, { metadata });
    files.push(file);
    for (const [name] of shard) places.push([name, file]);
  }
  if (shards.length === 1) {
    await removeStale(folder, baseName, files);
    return files;
  }
  places.sort(([a], [b]) => compareNames(a, b));
  const content = { metadata: { total_size: total }, weight_map: Object.fromEntries(places) };
  await writeFileAtomic(joinPath(folder, index), `${JSON.stringify(content, undefined, 2)}\n`);
  await removeStale(folder, baseName, files);
  return [...files, index];
}

/** A reader that prefers `model.safetensors` to an index must not find last week's. */
async function removeStale(folder: string, baseName: string, files: readonly string[]): Promise<void> {
  for (const name of await listDir(folder)) {
    const rest = name.startsWith(baseName) ? name.slice(baseName.length) : "";
    if (/^(-\d{5}-of-\d{5})?\.safetensors$/.test(rest) && !files.includes(name)) {
      await remove(joinPath(folder, name));
    }
  }
}

function shardName(baseName: string, index: number, count: number): string {
  const digits = (value: number) => String(value).padStart(5, "0");
  return `${baseName}-${digits(index + 1)}-of-${digits(count)}.safetensors`;
}

function split(tensors: Iterable<readonly [string, WritableTensor]>, maxShardBytes: number) {
  if (!(maxShardBytes > 0)) {
    throw new TunesmithError("config-invalid", `maxShardBytes is ${maxShardBytes}`, {
      fix: "give a positive number of bytes",
    });
  }
  const shards: (readonly [string, WritableTensor])[][] = [[]];
  const seen = new Set<string>();
  let size = 0;
  let total = 0;
  for (const entry of tensors) {
    const [name, value] = entry;
    if (seen.has(name)) {
      throw new TunesmithError("name-conflict", `two tensors are named ${quote(name)}`, {
        fix: "give every tensor its own name",
        details: { name },
      });
    }
    seen.add(name);
    const length = byteLengthOf(value.dtype, elementCount(value.shape, name));
    if (size > 0 && size + length > maxShardBytes) {
      shards.push([]);
      size = 0;
    }
    shards.at(-1)?.push(entry);
    size += length;
    total += length;
  }
  return { shards, total };
}
