import { fileExists, joinPath, readText } from "#io";
import { TunesmithError } from "../errors/index.js";
import { downloadRepo, type HubOptions, type RemoteFile } from "../io/hub.js";
import { isTokenizerFile } from "./tokenizer-files.js";

export type { DownloadProgress, HubOptions } from "../io/hub.js";

/**
 * Downloads config, safetensors and tokenizer files of a hub model, unless they are here already, and returns their
 * folder (see `downloadRepo` for caches and checksums).
 *
 * Throws `offline` (no connection and no snapshot), `file-not-found` (no such model or revision, or not permitted),
 * `format-unsupported` (no safetensors), `checksum-mismatch`, `cancelled`.
 *
 * @param id `organisation/name`.
 */
export async function downloadModel(id: string, options: HubOptions = {}): Promise<string> {
  return downloadRepo({ type: "model", id, choose: (files) => modelFiles(id, files), isComplete }, options);
}

function modelFiles(id: string, files: readonly RemoteFile[]): readonly RemoteFile[] {
  const wanted = files.filter(({ path }) => isWanted(path));
  const has = (test: (path: string) => boolean) => wanted.some(({ path }) => test(path));
  if (has((path) => path === "config.json") && has((path) => path.endsWith(".safetensors"))) return wanted;
  const found = files.map(({ path }) => path);
  throw new TunesmithError(
    "format-unsupported",
    `${id}: no config.json with safetensors weights on the hub`,
    {
      fix: `choose a model that has them; this one holds ${found.slice(0, 12).join(", ") || "nothing"}`,
      details: { id, found },
    },
  );
}

/** Files of the top folder only. */
const isWanted = (path: string) =>
  /^[\w.-]+$/.test(path) &&
  (path === "config.json" ||
    /^model(-\d+-of-\d+)?\.safetensors(\.index\.json)?$/.test(path) ||
    isTokenizerFile(path));

async function isComplete(folder: string, names: readonly string[]): Promise<boolean> {
  if (!(await fileExists(joinPath(folder, "config.json")))) return false;
  if (!names.includes("model.safetensors.index.json")) return names.includes("model.safetensors");
  const index = JSON.parse(await readText(joinPath(folder, "model.safetensors.index.json"))) as {
    weight_map?: Record<string, string>;
  };
  return Object.values(index.weight_map ?? {}).every((name) => names.includes(name));
}
