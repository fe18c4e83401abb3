import { CsvError, parse } from "csv-parse/browser/esm/sync";
import { readText } from "#io";
import { TunesmithError } from "../errors/index.js";
import { readLines } from "./lines.js";

/** A row of a data file before its fields are understood. */
export interface RawRecord {
  /** Number from 1: the line of JSONL, the record of CSV, the element of a JSON array. */
  readonly row: number;
  readonly value: unknown;
}

export type RecordFormat = "jsonl" | "json" | "csv" | "tsv";

/**
 * Reads the records of a data file. Throws `data-invalid` naming file and line for malformed content; a value that
 * is well-formed but no object is kept, for the report.
 */
export async function readRecords(path: string, format: RecordFormat): Promise<RawRecord[]> {
  if (format === "jsonl") return readJsonLines(path);
  const text = await readText(path);
  return format === "json" ? parseJsonArray(path, text) : parseTable(path, text, format);
}

async function readJsonLines(path: string): Promise<RawRecord[]> {
  const records: RawRecord[] = [];
  for await (const { line, text } of readLines(path)) {
    if (text.trim() === "") continue;
    try {
      records.push({ row: line, value: JSON.parse(text) });
    } catch (cause) {
      throw malformed(`${path}:${line}`, `not JSON: ${(cause as Error).message}`, cause);
    }
  }
  return records;
}

function parseJsonArray(path: string, text: string): RawRecord[] {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw malformed(`${path}:${lineOfJsonError(cause, text)}`, (cause as Error).message, cause);
  }
  if (!Array.isArray(value)) {
    throw malformed(path, "the file holds one JSON value, not an array of rows");
  }
  return value.map((item, index) => ({ row: index + 1, value: item }));
}

/** V8 names a position or a line; other engines may name neither. */
function lineOfJsonError(error: unknown, text: string): number {
  const message = (error as Error).message;
  const line = /line (\d+)/.exec(message)?.[1];
  if (line) return Number(line);
  const position = /position (\d+)/.exec(message)?.[1];
  return position ? text.slice(0, Number(position)).split("\n").length : text.split("\n").length;
}

function parseTable(path: string, text: string, format: "csv" | "tsv"): RawRecord[] {
  try {
    const rows: unknown[] = parse(text, {
      columns: true,
      bom: true,
      skip_empty_lines: true,
      delimiter: format === "csv" ? "," : "\t",
      // Tab-separated files have no quoting: a quotation mark is a character of the text.
      quote: format === "csv" ? '"' : null,
    });
    return rows.map((value, index) => ({ row: index + 1, value }));
  } catch (cause) {
    if (!(cause instanceof CsvError)) throw cause;
    const line = typeof cause.lines === "number" ? `:${cause.lines}` : "";
    throw malformed(`${path}${line}`, cause.message, cause);
  }
}

function malformed(where: string, what: string, cause?: unknown): TunesmithError {
  return new TunesmithError("data-invalid", `${where}: ${what}`, {
    fix: "correct or remove that line",
    cause,
    details: { where },
  });
}
