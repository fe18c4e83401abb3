import { readdirSync } from "node:fs";
import { join, relative } from "node:path";

/** Files below `root` whose relative path `wanted` accepts, sorted; Node 20 has no glob of its own. */
export function listFiles(root, wanted) {
  return readdirSync(root, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(root, join(entry.parentPath ?? entry.path, entry.name)))
    .filter(wanted)
    .sort();
}
