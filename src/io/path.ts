/** Path helpers with `/` as the separator, for the origin private file system, which has no others. */

/** Joins and normalises path parts; `..` never climbs above the root of an absolute path. */
export function joinPath(...parts: string[]): string {
  const text = parts.filter((part) => part !== "").join("/");
  const absolute = text.startsWith("/");
  const kept: string[] = [];
  for (const part of text.split("/")) {
    if (part === "" || part === ".") continue;
    if (part !== "..") kept.push(part);
    else if (kept.length > 0 && kept.at(-1) !== "..") kept.pop();
    else if (!absolute) kept.push("..");
  }
  const joined = kept.join("/");
  return absolute ? `/${joined}` : joined || ".";
}

/** The folder part of a path: `/a/b` of `/a/b/c`, `.` of `c`. */
export function dirname(path: string): string {
  const trimmed = path.replace(/\/+$/, "");
  const slash = trimmed.lastIndexOf("/");
  if (slash < 0) return trimmed === "" && path !== "" ? "/" : ".";
  return trimmed.slice(0, slash).replace(/\/+$/, "") || "/";
}

/** The last part of a path, without `suffix` if it ends so. */
export function basename(path: string, suffix = ""): string {
  const last = path.replace(/\/+$/, "").split("/").at(-1) ?? "";
  return suffix !== "" && last !== suffix && last.endsWith(suffix) ? last.slice(0, -suffix.length) : last;
}

/** The absolute form of a path; relative paths start at the root. */
export function resolvePath(...parts: string[]): string {
  let path = "";
  for (const part of parts) path = part.startsWith("/") ? part : `${path}/${part}`;
  return joinPath("/", path);
}
