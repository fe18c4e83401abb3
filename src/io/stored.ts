/** Files that a user picked, copied into the cache so that they are there tomorrow: models and data in the browser. */
import {
  cacheDir,
  dirname,
  fileExists,
  holdLock,
  joinPath,
  listDir,
  makeDir,
  openFile,
  readText,
  remove,
  sha256,
  sourceChunks,
  spaceLeft,
  stat,
  writeFileAtomic,
} from "#io";
import { TunesmithError } from "../errors/index.js";

/** A file and the relative path it is to have. A `File` has one already. */
export interface NamedBlob {
  readonly name: string;
  readonly blob: Blob;
}

/** A set of stored files. */
export interface StoredFiles {
  /** SHA-256 over names and contents, 64 hexadecimal digits. */
  readonly id: string;
  /** The file if it is one, else the folder that holds them: what `loadModel` and `loadDataset` take. */
  readonly path: string;
  readonly files: readonly { readonly name: string; readonly bytes: number }[];
  /** Of all files. */
  readonly bytes: number;
}

export interface StoreOptions {
  /** Folder of all sets. Default: `files` in the cache folder. */
  readonly root?: string | undefined;
  /** Called as bytes are hashed, and copied unless they are there already. */
  readonly onProgress?: ((progress: StoreProgress) => void) | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface StoreProgress {
  readonly phase: "hash" | "copy";
  /** Bytes done, and of all files. */
  readonly done: number;
  readonly total: number;
}

const rootOf = ({ root }: Pick<StoreOptions, "root">): string => root ?? joinPath(cacheDir(), "files");
const folderOf = (root: string, id: string): string => joinPath(root, id, "files");
const indexOf = (root: string, id: string): string => joinPath(root, id, "index.json");

/**
 * Copies files, for example those of an `<input type="file">` or of a folder dropped on a page, into the cache (in the
 * browser the origin private file system) and says under which path. A set is known by its content: what is there already
 * is not copied again. Files are read twice, to hash and to copy, and never held in memory; nothing is left of a copy
 * that fails. Folders are kept (`webkitRelativePath`), without the one that holds everything.
 *
 * Throws `storage-full` before anything is copied when it cannot fit, and when it does not; `name-conflict` for two files
 * of one name, `config-invalid` for names that leave the folder or no files, `in-use` while another tab stores the same,
 * `cancelled`.
 *
 * @example
 * ```ts
 * import { loadModel, storeFiles } from "tunesmith";
 * export async function picked(input: HTMLInputElement) {
 *   const { path } = await storeFiles(input.files ?? []);
 *   return loadModel(path, { task: "auto" });
 * }
 * ```
 */
export async function storeFiles(
  given: Iterable<File | NamedBlob>,
  options: StoreOptions = {},
): Promise<StoredFiles> {
  const files = named(given);
  const root = rootOf(options);
  const total = files.reduce((sum, { blob }) => sum + blob.size, 0);
  const hashes: [string, number, string][] = [];
  const hashing = reporter("hash", total, options);
  for (const { name, blob } of files) hashes.push([name, blob.size, await sha256(hashing(blob))]);
  const id = await sha256(new TextEncoder().encode(JSON.stringify(hashes)));
  const known = await read(root, id);
  if (known) return known;
  await makeDir(joinPath(root, id));
  const release = await holdLock(joinPath(root, id));
  let stored: StoredFiles | undefined;
  try {
    stored = (await read(root, id)) ?? (await copy(root, id, files, reporter("copy", total, options)));
    return stored;
  } finally {
    await release();
    if (!stored) await remove(joinPath(root, id));
  }
}

async function copy(
  root: string,
  id: string,
  files: readonly NamedBlob[],
  chunksOf: (blob: Blob) => AsyncGenerator<Uint8Array>,
): Promise<StoredFiles> {
  await checkSpace(root, files);
  for (const { name, blob } of files) {
    const path = joinPath(folderOf(root, id), name);
    await makeDir(dirname(path));
    await writeFileAtomic(path, chunksOf(blob));
  }
  const index = files.map(({ name, blob }) => ({ name, bytes: blob.size }));
  // Last: a set without it is not whole.
  await writeFileAtomic(indexOf(root, id), JSON.stringify(index));
  return describe(root, id, index);
}

async function checkSpace(root: string, files: readonly NamedBlob[]): Promise<void> {
  const [needed, left] = [files.reduce((sum, { blob }) => sum + blob.size, 0), await spaceLeft(root)];
  if (needed <= left) return;
  const mb = (bytes: number) => `${(bytes / 1e6).toFixed(1)} MB`;
  throw new TunesmithError("storage-full", `${mb(needed)} are to be stored and ${mb(left)} are left`, {
    fix: "remove stored files (storedFiles, removeStoredFiles), or free disk space",
    details: { needed, left },
  });
}

/** What is stored, by id. Sets whose copy was cut off are not whole and not listed. */
export async function storedFiles(options: Pick<StoreOptions, "root"> = {}): Promise<StoredFiles[]> {
  const root = rootOf(options);
  if (!(await fileExists(root))) return [];
  const sets = await Promise.all((await listDir(root)).map((id) => read(root, id)));
  return sets.filter((set) => set !== undefined);
}

/** Removes a set, or what is left of one; nothing happens when there is none. Throws `in-use` while it is being stored. */
export async function removeStoredFiles(id: string, options: Pick<StoreOptions, "root"> = {}): Promise<void> {
  if (!/^[0-9a-f]{64}$/.test(id)) {
    throw new TunesmithError("config-invalid", `'${id}' is not the id of stored files`, {
      fix: "give an id that storedFiles lists",
    });
  }
  const root = rootOf(options);
  if (!(await fileExists(joinPath(root, id)))) return;
  const release = await holdLock(joinPath(root, id));
  try {
    await remove(indexOf(root, id));
    await remove(folderOf(root, id));
  } finally {
    await release();
  }
  await remove(joinPath(root, id));
}

/** A whole set; undefined for none, or one whose files have not the sizes they were stored with. */
async function read(root: string, id: string): Promise<StoredFiles | undefined> {
  if (!(await fileExists(indexOf(root, id)))) return undefined;
  const index = JSON.parse(await readText(indexOf(root, id))) as { name: string; bytes: number }[];
  for (const { name, bytes } of index) {
    const path = joinPath(folderOf(root, id), name);
    if (!(await fileExists(path)) || (await stat(path)).size !== bytes) return undefined;
  }
  return describe(root, id, index);
}

function describe(root: string, id: string, files: StoredFiles["files"]): StoredFiles {
  const [only] = files;
  const folder = folderOf(root, id);
  return {
    id,
    path: only && files.length === 1 ? joinPath(folder, only.name) : folder,
    files,
    bytes: files.reduce((sum, { bytes }) => sum + bytes, 0),
  };
}

/** The pieces of a blob, counted over all blobs. */
function reporter(phase: StoreProgress["phase"], total: number, { onProgress, signal }: StoreOptions) {
  let done = 0;
  return async function* (blob: Blob): AsyncGenerator<Uint8Array> {
    for await (const chunk of sourceChunks(await openFile(blob))) {
      if (signal?.aborted) {
        throw new TunesmithError("cancelled", "storing files was cancelled", { fix: "store them again" });
      }
      yield chunk;
      done += chunk.byteLength;
      onProgress?.({ phase, done, total });
    }
  };
}

/** Files by relative path, sorted. */
function named(given: Iterable<File | NamedBlob>): NamedBlob[] {
  const files = [...given].map((file) =>
    file instanceof Blob ? { name: file.webkitRelativePath || file.name, blob: file } : file,
  );
  const split = files.map(({ name, blob }) => ({ parts: partsOf(name), blob }));
  const [top] = split[0]?.parts ?? [];
  const isFolder = split.every(({ parts }) => parts.length > 1 && parts[0] === top);
  const result = split.map(({ parts, blob }) => ({ name: parts.slice(isFolder ? 1 : 0).join("/"), blob }));
  result.sort((a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0));
  if (result.length === 0) {
    throw new TunesmithError("config-invalid", "there are no files to store", { fix: "pick at least one" });
  }
  const twice = result.find(({ name }, at) => name === result[at + 1]?.name);
  if (!twice) return result;
  throw new TunesmithError("name-conflict", `two of the files are called '${twice.name}'`, {
    fix: "pick a folder, or give the files different names",
  });
}

function partsOf(name: string): string[] {
  const parts = name.split(/[/\\]/);
  const isPlain = parts.every((part) => part !== "" && part !== "." && part !== ".." && !part.includes("\0"));
  if (isPlain) return parts;
  throw new TunesmithError("config-invalid", `'${name}' is not a relative file name`, {
    fix: "give names such as model.onnx or onnx/model.onnx",
  });
}
