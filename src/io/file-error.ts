import { TunesmithError } from "../errors/index.js";

const fixes: Readonly<Record<string, string>> = {
  EACCES: "check the permissions of the file and of its folder",
  EPERM: "check the permissions of the file and of its folder",
  EROFS: "choose a folder that is not mounted read-only",
  ENOSPC: "the disk is full: free some space, or choose another disk",
  EDQUOT: "the disk quota is used up: free some space, or choose another disk",
  QUOTA: "the browser grants this site no more: remove stored files of it, or free disk space",
  EFBIG: "the file system cannot hold a file this large: choose another disk",
  EISDIR: "a folder has this name: name a file",
  ENOTDIR: "a file has the name of a folder on this path: choose another path",
  EEXIST: "a file has this name: remove it, or choose another name",
  ENAMETOOLONG: "choose a shorter name",
  EMFILE: "too many files are open: close some, or raise the limit (ulimit -n)",
};

/**
 * A handler for a failed file operation: `promise.catch(fileError(path, "read"))`. It always throws a
 * `TunesmithError` that names the path: `file-not-found`, `file-read-failed`, `file-write-failed` or `storage-full`.
 */
export function fileError(path: string, action: "read" | "write"): (cause: unknown) => never {
  return (cause) => {
    if (cause instanceof TunesmithError) throw cause;
    const code = errorCode(cause);
    const details = { path, cause: code };
    if (code === "ENOENT") {
      throw new TunesmithError(
        "file-not-found",
        action === "read" ? `${path}: no such file or folder` : `${path}: its folder does not exist`,
        {
          fix: action === "read" ? "check the path" : "create the folder first, or choose another path",
          cause,
          details,
        },
      );
    }
    const why = cause instanceof Error ? cause.message : String(cause);
    const isFull = ["ENOSPC", "EDQUOT", "QUOTA"].includes(code);
    throw new TunesmithError(
      isFull ? "storage-full" : action === "read" ? "file-read-failed" : "file-write-failed",
      `${path}: cannot ${action} (${why})`,
      {
        fix: fixes[code] ?? `check the path and its ${action === "read" ? "readability" : "disk"}`,
        cause,
        details,
      },
    );
  };
}

/** The error of a folder that someone else holds. */
export const inUse = (folder: string, who: string, fix: string): TunesmithError =>
  new TunesmithError("in-use", `${folder} is in use by ${who}`, { fix, details: { folder } });

/** Node's `code`, or the code that a browser's `DOMException` name corresponds to. */
function errorCode(cause: unknown): string {
  if (typeof cause !== "object" || cause === null) return "UNKNOWN";
  if ("code" in cause && typeof cause.code === "string") return cause.code;
  const name = "name" in cause ? String(cause.name) : "";
  return domCodes[name] ?? (name || "UNKNOWN");
}

const domCodes: Readonly<Record<string, string>> = {
  NotFoundError: "ENOENT",
  TypeMismatchError: "EISDIR",
  QuotaExceededError: "QUOTA",
  NotAllowedError: "EACCES",
  NoModificationAllowedError: "EACCES",
};
