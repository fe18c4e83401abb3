import { CsvError, parse } from "csv-parse/browser/esm/sync";
import { TunesmithError } from "../../errors/index.js";
import type { ByteSource } from "../../io/types.js";
import { isFields } from "../layouts/index.js";
import { type DataFile, nameOf, readUnpacked, withSource } from "./bytes.js";
import { conllBatches, labelledBatches } from "./columns.js";
import { type Encoding, lineBatches, textChunks } from "./lines.js";
import { parquetBatches } from "./parquet.js";

/** A row of a data file before its fields are understood. */
export interface RawRecord {
  /** Number from 1: the line of JSONL, the record of CSV, the element of a JSON array. */
  readonly row: number;
  /** Undefined when `problem` says why there is none. */
  readonly value: unknown;
  readonly problem?: string;
}

/**
 * Formats of rows with fields. `labelled` is a class and a text on each line (SST-2, TREC, fastText), `conll` columns of
 * words and tags with an empty line between sentences (CoNLL-U and its relatives).
 */
export type RecordFormat = "jsonl" | "json" | "csv" | "tsv" | "parquet" | "labelled" | "conll";

export interface RecordOptions {
  /** A line that cannot be parsed becomes a record with a `problem` instead of an error. JSONL only. Default false. */
  readonly lenient?: boolean;
  /** How text is encoded. Default UTF-8; other bytes are an error, never guessed. */
  readonly encoding?: Encoding;
}

/**
 * Reads the records of a data file in batches. JSONL, CSV, TSV, CoNLL and Parquet are never in memory whole (of Parquet a
 * row group is); packed text files (`.gz`) are unpacked on the way.
 *
 * Throws `data-invalid` naming file and line for malformed content; a value that is well-formed but no object is kept,
 * for the report.
 *
 * @example
 * ```ts
 * import { readRecords } from "tunesmith/data";
 * for await (const batch of readRecords("notes.jsonl", "jsonl")) {
 *   for (const { row, value } of batch) console.log(row, value);
 * }
 * ```
 */
export function readRecords(
  file: DataFile,
  format: RecordFormat,
  options: RecordOptions = {},
): AsyncGenerator<readonly RawRecord[]> {
  switch (format) {
    case "jsonl":
      return withSource(file, (source) => jsonLines(source, options));
    case "json":
      return jsonArray(file, options);
    case "parquet":
      return withSource(file, parquetBatches);
    case "labelled":
      return withSource(file, (source) => labelledBatches(source, options.encoding));
    case "conll":
      return withSource(file, (source) => conllBatches(source, options.encoding));
    default:
      return withSource(file, (source) => tableBatches(source, format, options.encoding));
  }
}

async function* jsonLines(
  source: ByteSource,
  { lenient = false, encoding }: RecordOptions,
): AsyncGenerator<readonly RawRecord[]> {
  for await (const { first, lines } of lineBatches(source, encoding)) {
    const records: RawRecord[] = [];
    for (let index = 0; index < lines.length; index++) {
      const text = lines[index] as string;
      if (text.trim() === "") continue;
      const row = first + index;
      try {
        records.push({ row, value: JSON.parse(text) });
      } catch (cause) {
        const problem = `not JSON: ${(cause as Error).message}`;
        if (!lenient) throw malformed(`${source.name}:${row}`, problem, cause);
        // The parser quotes the text, and every row has its own; the reason is to be counted.
        records.push({ row, value: undefined, problem: "not JSON" });
      }
    }
    yield records;
  }
}

async function* jsonArray(
  file: DataFile,
  { encoding = "utf-8" }: RecordOptions,
): AsyncGenerator<readonly RawRecord[]> {
  const name = nameOf(file);
  const bytes = await readUnpacked(file);
  let text: string;
  let value: unknown;
  try {
    text = new TextDecoder(encoding, { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new TunesmithError("file-corrupt", `${name} is not ${encoding.toUpperCase()} text`, {
      fix: "convert the file to UTF-8, or name its `encoding` (latin1, utf-16le)",
      cause,
    });
  }
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw malformed(`${name}:${lineOfJsonError(cause, text)}`, (cause as Error).message, cause);
  }
  // Some datasets wrap the rows: {"data": [...]}, {"AddToPlaylist": [...]}.
  const lists = isFields(value) ? Object.values(value).filter(Array.isArray) : [];
  const rows = Array.isArray(value) ? value : lists.length === 1 ? lists[0] : undefined;
  if (!rows) throw malformed(name, "the file holds one JSON value, not an array of rows");
  yield rows.map((item, index) => ({ row: index + 1, value: item }));
}

/** V8 names a position or a line; other engines may name neither. */
function lineOfJsonError(error: unknown, text: string): number {
  const message = (error as Error).message;
  const line = /line (\d+)/.exec(message)?.[1];
  if (line) return Number(line);
  const position = /position (\d+)/.exec(message)?.[1];
  return position ? text.slice(0, Number(position)).split("\n").length : text.split("\n").length;
}

/** Cuts the text after a line end outside quotation marks, and parses what is before. */
async function* tableBatches(
  source: ByteSource,
  format: "csv" | "tsv",
  encoding?: Encoding,
): AsyncGenerator<readonly RawRecord[]> {
  let columns: string[] | undefined;
  let row = 0;
  let line = 0;
  const parsePart = (text: string): RawRecord[] => {
    const rows = parseTable(source.name, text, format, line);
    line += countOf(text, "\n");
    const [head, ...rest] = columns ? [columns, ...rows] : rows;
    columns = head;
    return rest.map((cells) => ({ row: ++row, value: record(source.name, head ?? [], cells, row) }));
  };
  const scan = recordEnds(format);
  let rest = "";
  for await (const text of textChunks(source, encoding)) {
    const end = scan(text);
    if (end < 0) {
      rest += text;
      continue;
    }
    yield parsePart(rest + text.slice(0, end + 1));
    rest = text.slice(end + 1);
  }
  if (rest.trim() !== "") yield parsePart(rest);
}

/**
 * Finds where the last whole record of a piece of text ends, -1 if none does; called with the pieces in order. A line end
 * is the end of a record when the number of quotation marks before it is even.
 */
function recordEnds(format: "csv" | "tsv"): (text: string) => number {
  if (format === "tsv") return (text) => text.lastIndexOf("\n");
  let quoted = false;
  return (text) => {
    let end = -1;
    for (let at = 0; at < text.length; at++) {
      const code = text.charCodeAt(at);
      if (code === 34) quoted = !quoted;
      else if (code === 10 && !quoted) end = at;
    }
    return end;
  };
}

function record(file: string, columns: readonly string[], cells: readonly string[], row: number) {
  if (cells.length !== columns.length) {
    throw malformed(`${file}, row ${row}`, `${cells.length} cells, but there are ${columns.length} columns`);
  }
  const value: Record<string, string> = {};
  for (let index = 0; index < cells.length; index++) value[columns[index] as string] = cells[index] as string;
  return value;
}

function countOf(text: string, character: string): number {
  let count = 0;
  for (let at = text.indexOf(character); at >= 0; at = text.indexOf(character, at + 1)) count++;
  return count;
}

/** Cells of a CSV or TSV text. Throws `data-invalid` naming the line, counted from `linesBefore`. */
export function parseTable(
  name: string,
  text: string,
  format: "csv" | "tsv",
  linesBefore: number,
): string[][] {
  try {
    return parse(text, {
      bom: true,
      skip_empty_lines: true,
      delimiter: format === "csv" ? "," : "\t",
      // Tab-separated files have no quoting: a quotation mark is a character of the text.
      quote: format === "csv" ? '"' : null,
    });
  } catch (cause) {
    if (!(cause instanceof CsvError)) throw cause;
    const line = typeof cause.lines === "number" ? `:${linesBefore + cause.lines}` : "";
    throw malformed(`${name}${line}`, cause.message, cause);
  }
}

/** An error about one place in a data file. */
export function malformed(where: string, what: string, cause?: unknown): TunesmithError {
  return new TunesmithError("data-invalid", `${where}: ${what}`, {
    fix: "correct or remove that line",
    cause,
    details: { where },
  });
}
