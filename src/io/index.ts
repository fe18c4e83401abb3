/** Files as programs see them: in Node those of the system, in the browser the origin private file system. */
export {
  cacheDir,
  fileBlob,
  fileExists,
  holdLock,
  joinPath,
  listDir,
  makeDir,
  openFile,
  readFile,
  readText,
  remove,
  sha256,
  sourceChunks,
  spaceLeft,
  stat,
  writeFileAtomic,
} from "#io";
export {
  type NamedBlob,
  removeStoredFiles,
  type StoredFiles,
  type StoreOptions,
  type StoreProgress,
  storedFiles,
  storeFiles,
} from "./stored.js";
export type { ByteSource, FileContent, FileLocation, FileStat, Release } from "./types.js";
export { zipFolder } from "./zip.js";
