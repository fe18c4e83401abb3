import { joinPath, readText } from "#io";
import { TunesmithError } from "../errors/index.js";
import { downloadRepo, type HubOptions, type HubRepo, type RemoteFile } from "../io/hub.js";
import { formatOf, openFiles, type RowStream, type StreamOptions } from "./stream.js";

/** What to take of a dataset of the hub, and how it is downloaded. */
export interface HubDatasetOptions extends HubOptions {
  /** Configuration of the dataset. Default: `default`, or the only one. */
  readonly config?: string;
  /** Default: `train`, or the only one. */
  readonly split?: string;
}

/** `organisation/name`, optionally `@revision`. */
const HUB_ID = /^([A-Za-z0-9][\w.-]*\/[A-Za-z0-9][\w.-]*)(?:@([\w./-]+))?$/;
/** The branch that holds every dataset of the hub as Parquet: `CONFIG/SPLIT/0000.parquet`. */
const CONVERTED = "refs/convert/parquet";

/** The parts of a dataset's id; undefined for what looks like a file. */
export function hubDatasetId(path: string): { id: string; revision: string | undefined } | undefined {
  const [, id, revision] = HUB_ID.exec(path) ?? [];
  if (!id || formatOf(id) || /\.(txt|md|gz|tar|zip)$/i.test(id)) return undefined;
  return { id, revision };
}

/**
 * Opens a dataset of the Hugging Face hub: the Parquet files that the hub makes of every dataset, or with a revision the
 * data files of that revision. They are downloaded once, checked against the hub's checksums.
 *
 * Throws `config-invalid` when configuration or split must be named, `file-not-found`, `offline`, `checksum-mismatch`,
 * `cancelled`, and what `openRows` throws.
 *
 * @param path `organisation/name`, optionally `@revision`.
 *
 * @example
 * ```ts
 * import { openHubDataset } from "tunesmith/data";
 * const stream = await openHubDataset("stanfordnlp/sst2", { split: "validation" });
 * for await (const { rows } of stream.batches()) console.log(rows[0]);
 * ```
 */
export async function openHubDataset(
  path: string,
  options: HubDatasetOptions & StreamOptions = {},
): Promise<RowStream> {
  const { id, revision } = hubDatasetId(path) ?? { id: path, revision: undefined };
  const { config, split } = options;
  const repo: HubRepo = {
    type: "dataset",
    id,
    choice: `${config ?? ""}:${split ?? ""}`,
    choose: (files) => chosenFiles(id, files, options),
    // Files of that cache are links without sizes to check against.
    isComplete: async () => false,
  };
  const named = revision ?? options.revision;
  const folder = await downloadRepo(repo, { ...options, revision: named ?? CONVERTED }).catch(
    (error: unknown) => {
      // Hubs of one's own, and datasets that are too new, have no converted files.
      const isMissing = error instanceof TunesmithError && error.code === "file-not-found";
      if (named !== undefined || !isMissing) throw error;
      return downloadRepo(repo, options);
    },
  );
  const files = await filesOf(folder, repo.choice ?? "");
  return openFiles(path, files, options);
}

/** What was downloaded, in order, as it was written down then. */
async function filesOf(folder: string, choice: string) {
  const list = joinPath(folder, `download-complete-${encodeURIComponent(choice)}.json`);
  const { files } = JSON.parse(await readText(list)) as { files: { path: string }[] };
  return files.flatMap(({ path }) => {
    const format = formatOf(path);
    return format ? [{ path: joinPath(folder, path), format }] : [];
  });
}

/** A data file of a repository and what its path says. */
interface Part {
  readonly file: RemoteFile;
  readonly config: string;
  readonly split: string;
}

function chosenFiles(
  id: string,
  files: readonly RemoteFile[],
  wanted: { config?: string; split?: string },
): RemoteFile[] {
  const parts = files.flatMap((file) => partOf(file) ?? []);
  if (parts.length === 0) {
    throw new TunesmithError("format-unsupported", `${id}: no data files on the hub`, {
      fix: `choose a dataset of Parquet, JSONL, JSON or CSV files; this one holds ${
        files
          .map(({ path }) => path)
          .slice(0, 12)
          .join(", ") || "nothing"
      }`,
    });
  }
  const config = choice(
    id,
    "config",
    wanted.config,
    "default",
    parts.map((part) => part.config),
  );
  const ofConfig = parts.filter((part) => part.config === config);
  const split = choice(
    id,
    "split",
    wanted.split,
    "train",
    ofConfig.map((part) => part.split),
  );
  return ofConfig
    .filter((part) => part.split === split)
    .map(({ file }) => file)
    .sort((a, b) => (a.path < b.path ? -1 : 1));
}

const SPLITS = /(?:^|[/_.-])(train|training|validation|valid|val|dev|test|testing|eval)(?=[/_.-])/i;

/** `CONFIG/SPLIT/0000.parquet` and `CONFIG/NAME-SPLIT.parquet` of the hub; other files by the split in their name. */
function partOf(file: RemoteFile): Part | undefined {
  const format = formatOf(file.path);
  if (!format || /(^|\/)(dataset_infos|config|package)\.json$/.test(file.path)) return undefined;
  const folders = file.path.split("/");
  if (format === "parquet" && folders.length === 3) {
    const [config = "", split = ""] = folders;
    // A large dataset is converted in part, and says so.
    return { file, config, split: split.replace(/^partial-/, "") };
  }
  const split = SPLITS.exec(file.path)?.[1]?.toLowerCase() ?? "train";
  const config =
    folders.length === 2 && folders[0] !== "data" && !SPLITS.test(`${folders[0]}/`) ? folders[0] : undefined;
  return { file, config: config ?? "default", split: /^(valid|val|dev)$/.test(split) ? "validation" : split };
}

/** The one that is asked for, the usual one, or the only one. */
function choice(
  id: string,
  what: "config" | "split",
  wanted: string | undefined,
  usual: string,
  names: readonly string[],
): string {
  const known = [...new Set(names)];
  const found = wanted ?? (known.includes(usual) ? usual : known.length === 1 ? known[0] : undefined);
  if (found !== undefined && known.includes(found)) return found;
  const asked = wanted === undefined ? `has several ${what}s` : `has no ${what} '${wanted}'`;
  throw new TunesmithError("config-invalid", `${id} ${asked}`, {
    fix: `give \`${what}\`: ${known.slice(0, 20).join(", ")}`,
    details: { [what]: known },
  });
}
