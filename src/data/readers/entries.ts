import { TunesmithError } from "../../errors/index.js";
import type { ByteSource } from "../../io/types.js";
import type { MediaFile } from "../types.js";

/** A file inside a folder or archive; `path` is seen from its root, with `/` between folders. */
export interface ArchiveEntry extends MediaFile {
  readonly path: string;
  readonly size: number;
}

/** More files than any dataset has that one would open so; a guard against a damaged or hostile index. */
export const MAX_ENTRIES = 5_000_000;

export const corrupt = (source: ByteSource, what: string) =>
  new TunesmithError("file-corrupt", `${source.name}: ${what}`, {
    fix: "copy or download the archive again",
  });

export const unsupported = (source: ByteSource, what: string, fix: string) =>
  new TunesmithError("format-unsupported", `${source.name}: ${what}`, { fix });

/** Hidden files and the resource forks that macOS puts into archives are no data. */
export const isContent = (path: string) =>
  !path.endsWith("/") &&
  !path.split("/").some((part) => part.startsWith(".") && part !== ".") &&
  !path.startsWith("__MACOSX/");
