import { basename, readText, stat } from "#io";
import { TunesmithError } from "../errors/index.js";
import { type FolderOptions, readFolder, TEXT_EXTENSIONS } from "./folder.js";
import { detectLayout, type FieldNames, readRow } from "./layouts.js";
import { type RawRecord, type RecordFormat, readRecords } from "./records.js";
import type { Dataset, DroppedRow, Layout, Row } from "./types.js";

export interface LoadDatasetOptions extends FolderOptions {
  /** Default: by the file's ending (`jsonl`/`ndjson`, `json`, `csv`, `tsv`; anything else is text). */
  readonly format?: RecordFormat | "text";
  /** Default: by the fields of the first row that has those of a layout. */
  readonly layout?: Layout;
  /** Other names of fields, for example `{ prompt: "question", completion: "answer" }`. */
  readonly fields?: FieldNames;
  /** Cuts a text file into documents at this text. Default: the whole file is one document. */
  readonly documentSeparator?: string;
}

/**
 * Loads training examples from a JSONL, JSON, CSV, TSV or text file, or from a folder of source files. Rows that
 * cannot be used are left out and reported with the reason.
 *
 * Throws `file-not-found`; `data-invalid` naming file and line for malformed content; `data-empty`, with the
 * reasons, when no row is left.
 *
 * @example
 * ```ts
 * import { loadDataset } from "tunesmith/data";
 * const dataset = await loadDataset("notes.jsonl");
 * console.log(dataset.layout, dataset.report.rows, dataset.report.dropped);
 * ```
 */
export async function loadDataset(path: string, options: LoadDatasetOptions = {}): Promise<Dataset> {
  const info = await stat(path);
  if (info.isDirectory) return loadFolder(path, options);
  const format = options.format ?? formatOf(path);
  if (format === "text") return loadText(path, info.size, options);
  const records = await readRecords(path, format);
  const fields = options.fields ?? {};
  const layout = options.layout ?? firstLayout(records, fields);
  if (!layout) throw unknownLayout(path, records);
  const rows: Row[] = [];
  const dropped: DroppedRow[] = [];
  for (const { row, value } of records) {
    const read = readRow(value, layout, fields);
    if (typeof read === "string") dropped.push({ row, reason: read });
    else rows.push(read);
  }
  return finish({ name: path, layout, rows, dropped, bytes: info.size, capped: false });
}

function formatOf(path: string): RecordFormat | "text" {
  const ending = basename(path).toLowerCase().split(".").at(-1);
  if (ending === "jsonl" || ending === "ndjson") return "jsonl";
  return ending === "json" || ending === "csv" || ending === "tsv" ? ending : "text";
}

function firstLayout(records: readonly RawRecord[], fields: FieldNames): Layout | undefined {
  for (const { value } of records) {
    const layout = detectLayout(value, fields);
    if (layout) return layout;
  }
  return undefined;
}

async function loadText(path: string, bytes: number, options: LoadDatasetOptions): Promise<Dataset> {
  const text = await readText(path);
  if (text.slice(0, 8192).includes("\0")) {
    throw new TunesmithError("data-invalid", `${path} is a binary file`, {
      fix: "give a text, JSONL, JSON, CSV or TSV file, or a folder of source files",
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
}): Dataset {
  const { name, layout, rows, dropped, bytes, capped } = parts;
  if (rows.length === 0) {
    throw new TunesmithError("data-empty", `${name} holds no usable ${layout} row${reasons(dropped)}`, {
      fix: dropped.length > 0 ? "correct the rows, or name their fields with `fields`" : "the file is empty",
      details: { dropped },
    });
  }
  return { name, layout, rows, report: { rows: rows.length, dropped, bytes, capped } };
}

function unknownLayout(path: string, records: readonly RawRecord[]): TunesmithError {
  const first = records[0]?.value;
  if (first === undefined) {
    return new TunesmithError("data-empty", `${path} holds no rows`, {
      fix: "give a file with at least one row",
    });
  }
  const keys = typeof first === "object" && first !== null ? Object.keys(first).join(", ") : typeof first;
  return new TunesmithError(
    "data-empty",
    `${path}: all ${records.length} rows dropped, none has the fields of a known layout (first row: ${keys})`,
    {
      fix: "use {text}, {prompt, completion}, {messages} or {instruction, input, output}, or name the fields with `fields`",
      details: { dropped: records.map(({ row }) => ({ row, reason: "no known layout" })) },
    },
  );
}

/** The reasons with how often each occurred, most frequent first. */
function reasons(dropped: readonly DroppedRow[]): string {
  const counts = new Map<string, number>();
  for (const { reason } of dropped) counts.set(reason, (counts.get(reason) ?? 0) + 1);
  const lines = [...counts].sort((a, b) => b[1] - a[1]).slice(0, 5);
  return lines.length === 0 ? "" : `: ${lines.map(([reason, count]) => `${reason} (${count})`).join("; ")}`;
}
