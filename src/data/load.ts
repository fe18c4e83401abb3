import { fileExists, readText, stat } from "#io";
import { TunesmithError } from "../errors/index.js";
import { type HubDatasetOptions, hubDatasetId, openHubDataset } from "./hub.js";
import { type FolderOptions, readFolder, TEXT_EXTENSIONS } from "./readers/folder.js";
import type { RecordFormat } from "./readers/records.js";
import { openRows, type RowStream, type StreamOptions } from "./stream.js";
import type { Dataset, DroppedRow, Layout, LayoutGuess, Row } from "./types.js";

export interface LoadDatasetOptions extends FolderOptions, HubDatasetOptions, Omit<StreamOptions, "format"> {
  /** Default: by the file's ending; anything that has no known one is text. */
  readonly format?: RecordFormat | "text";
  /** Cuts a text file into documents at this text. Default: the whole file is one document. */
  readonly documentSeparator?: string;
}

/**
 * Loads training examples: from a JSONL, JSON, CSV, TSV, Parquet, CoNLL or text file, a folder of sources, of such files, of
 * images or of WAV files, or from the Hugging Face hub (`organisation/name`, optionally `@revision`). Rows that cannot be
 * used are left out and reported with the reason. `openRows` reads large files without holding them.
 *
 * Throws `file-not-found`; `data-invalid` naming file and line for malformed content; `data-empty`, with the
 * reasons, when no row is left; for the hub what `openHubDataset` throws.
 *
 * @example
 * ```ts
 * import { loadDataset } from "tunesmith/data";
 * const dataset = await loadDataset("notes.jsonl");
 * console.log(dataset.layout, dataset.report.rows, dataset.report.dropped);
 * ```
 */
export async function loadDataset(path: string, options: LoadDatasetOptions = {}): Promise<Dataset> {
  const stream = await openDataset(path, options);
  if (stream) return collect(stream);
  const info = await stat(path);
  return info.isDirectory ? loadFolder(path, options) : loadText(path, info.size, options);
}

/**
 * Opens a local path or a dataset of the hub as a stream of rows, as `loadDataset` would read it. Undefined for texts and
 * folders of sources, which are read whole.
 */
export async function openDataset(
  path: string,
  options: LoadDatasetOptions = {},
): Promise<RowStream | undefined> {
  const { format, ...rest } = options;
  const wanted = { ...rest, ...(format === undefined || format === "text" ? {} : { format }) };
  if (!(await fileExists(path)) && hubDatasetId(path)) return openHubDataset(path, wanted);
  return format === "text" ? undefined : openRows(path, wanted);
}

/** A dataset that was read as a stream of its rows, numbered in order. */
export function streamOf(dataset: Dataset): RowStream {
  const { name, layout, rows, report, guess } = dataset;
  return {
    name,
    layout,
    ...(guess ? { guess } : {}),
    bytes: report.bytes,
    async *batches() {
      yield {
        rows: rows.map((value, index) => ({
          row:
            value.kind === "text" && value.source !== undefined && rows.length > 1 ? value.source : index + 1,
          value,
          raw: value.kind === "text" ? { text: value.text } : value,
        })),
        dropped: report.dropped,
      };
    },
    close: async () => {},
  };
}

async function collect(stream: RowStream): Promise<Dataset> {
  const rows: Row[] = [];
  const dropped: DroppedRow[] = [];
  for await (const batch of stream.batches()) {
    for (const { value } of batch.rows) rows.push(value);
    for (const row of batch.dropped) dropped.push(row);
  }
  const { name, layout, bytes, guess } = stream;
  // Rows of media keep their archive open; others hold nothing.
  if (layout !== "image" && layout !== "audio") await stream.close();
  return finish({ name, layout, rows, dropped, bytes, capped: false, guess });
}

async function loadText(path: string, bytes: number, options: LoadDatasetOptions): Promise<Dataset> {
  const text = await readText(path);
  if (text.slice(0, 8192).includes("\0")) {
    throw new TunesmithError("data-invalid", `${path} is a binary file`, {
      fix: "give a text, JSONL, JSON, CSV, TSV, Parquet, tar or zip file with its usual ending, or a folder of source files",
    });
  }
  const separator = options.documentSeparator;
  const documents = separator ? text.split(separator) : [text];
  const rows: Row[] = [];
  const dropped: DroppedRow[] = [];
  documents.forEach((document, index) => {
    if (document.trim() === "") dropped.push({ row: index + 1, reason: "empty" });
    else rows.push({ kind: "text", text: document, source: path });
  });
  return finish({ name: path, layout: "text", rows, dropped, bytes, capped: false });
}

async function loadFolder(path: string, options: LoadDatasetOptions): Promise<Dataset> {
  const { rows, dropped, bytes, capped, otherExtensions } = await readFolder(path, options);
  if (rows.length === 0) {
    const wanted = (options.extensions ?? TEXT_EXTENSIONS).slice(0, 12).join(", ");
    const others = [...otherExtensions].sort().slice(0, 12).join(", ") || "no other";
    throw new TunesmithError(
      "data-empty",
      `${path} holds no file to train on (looked for ${wanted}, ...; there are ${others} files)${reasons(dropped)}`,
      { fix: "name the endings to read with `extensions`, or give a single data file", details: { dropped } },
    );
  }
  return finish({ name: path, layout: "text", rows, dropped, bytes, capped });
}

function finish(parts: {
  name: string;
  layout: Layout;
  rows: Row[];
  dropped: DroppedRow[];
  bytes: number;
  capped: boolean;
  guess?: LayoutGuess | undefined;
}): Dataset {
  const { name, layout, rows, dropped, bytes, capped, guess } = parts;
  if (rows.length === 0) {
    throw new TunesmithError("data-empty", `${name} holds no usable ${layout} row${reasons(dropped)}`, {
      fix: dropped.length > 0 ? "correct the rows, or name their fields with `fields`" : "the file is empty",
      details: { dropped },
    });
  }
  const report = { rows: rows.length, dropped, bytes, capped };
  return { name, layout, rows, report, ...(guess ? { guess } : {}) };
}

/** The reasons with how often each occurred, most frequent first. */
function reasons(dropped: readonly DroppedRow[]): string {
  const counts = new Map<string, number>();
  for (const { reason } of dropped) counts.set(reason, (counts.get(reason) ?? 0) + 1);
  const lines = [...counts].sort((a, b) => b[1] - a[1]).slice(0, 5);
  return lines.length === 0 ? "" : `: ${lines.map(([reason, count]) => `${reason} (${count})`).join("; ")}`;
}
