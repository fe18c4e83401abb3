import { basename, joinPath, listDir, openFile, stat } from "#io";
import { TunesmithError } from "../errors/index.js";
import { detectLayout, type FieldNames, isFields, readRow } from "./layouts/index.js";
import { type Archive, openArchive } from "./readers/archive.js";
import { isLabelled } from "./readers/columns.js";
import { TEXT_EXTENSIONS } from "./readers/folder.js";
import { lineBatches } from "./readers/lines.js";
import { type MediaOptions, mediaIn, mediaKind } from "./readers/media.js";
import { type RawRecord, type RecordFormat, type RecordOptions, readRecords } from "./readers/records.js";
import type { DroppedRow, Layout, LayoutGuess, NumberedRow } from "./types.js";

/** Rows in the order of the file, and those that were left out between them. */
export interface RowBatch {
  readonly rows: readonly NumberedRow[];
  readonly dropped: readonly DroppedRow[];
}

/** A dataset that is read as it is used. */
export interface RowStream {
  readonly name: string;
  readonly layout: Layout;
  /** How the layout was found; absent when it was given, or follows from the kind of file. */
  readonly guess?: LayoutGuess;
  /** Bytes of the files. */
  readonly bytes: number;
  /** Rows from the first on; every call reads the files again. */
  batches(): AsyncGenerator<RowBatch>;
  /** Closes what stays open between calls (archives). */
  close(): Promise<void>;
}

export interface StreamOptions extends MediaOptions, RecordOptions {
  /** Default: by the file's ending (`.gz` after it is fine); of a `.txt` file by its first lines. */
  readonly format?: RecordFormat;
  /** Default: the one that most of the first rows can be read in (`detectLayout`). */
  readonly layout?: Layout;
  /** Other names of fields, for example `{ prompt: "question", completion: "answer" }`. */
  readonly fields?: FieldNames;
}

/** A file of rows with fields. */
interface RecordFile {
  readonly path: string;
  readonly format: RecordFormat;
}

const BY_ENDING: Readonly<Record<string, RecordFormat>> = {
  jsonl: "jsonl",
  ndjson: "jsonl",
  json: "json",
  csv: "csv",
  tsv: "tsv",
  parquet: "parquet",
  conllu: "conll",
  conll: "conll",
  bio: "conll",
  iob2: "conll",
};

/** The format that a file's name says; undefined for text. */
export function formatOf(path: string): RecordFormat | undefined {
  const parts = basename(path).toLowerCase().split(".");
  const ending = parts.at(-1) === "gz" ? parts.at(-2) : parts.at(-1);
  return BY_ENDING[ending ?? ""];
}

/** How many rows are looked at to find the layout. */
const SAMPLE = 200;

/**
 * Opens a dataset of rows without reading it: a JSONL, JSON, CSV, TSV, Parquet, CoNLL or class-and-text file, a folder of
 * JSONL or Parquet files, or images or WAV files in a folder, tar or zip file. Undefined when the path is none of these
 * (a text, or a folder of sources), which `loadDataset` reads.
 *
 * Throws `file-not-found`; `data-empty` when no row has the fields of a layout; reading the rows throws `data-invalid`
 * naming file and line for malformed content.
 *
 * @example
 * ```ts
 * import { openRows } from "tunesmith/data";
 * const stream = await openRows("large.jsonl");
 * let rows = 0;
 * if (stream) for await (const batch of stream.batches()) rows += batch.rows.length;
 * ```
 */
export async function openRows(path: string, options: StreamOptions = {}): Promise<RowStream | undefined> {
  const info = await stat(path);
  const files = info.isDirectory ? await shardsIn(path) : await fileOf(path, options);
  if (files.length > 0) return openFiles(path, files, options);
  if (!info.isDirectory && !/\.(tar|zip)$/i.test(path)) return undefined;
  const archive = await openArchive(path);
  if (info.isDirectory && !mediaKind(archive.entries)) return undefined;
  return mediaStream(path, archive, options);
}

/** The rows of several files of one layout, one file after the other. */
export async function openFiles(
  name: string,
  files: readonly RecordFile[],
  options: StreamOptions,
): Promise<RowStream> {
  const records = recordsOf(files, options);
  const guess = options.layout === undefined || !options.fields ? await guessOf(records, options) : undefined;
  const layout = options.layout ?? guess?.layout;
  if (!layout) throw await unknownLayout(name, records);
  const fields = (guess?.fields as FieldNames | undefined) ?? options.fields ?? {};
  const sizes = await Promise.all(files.map(async ({ path }) => (await stat(path)).size));
  return {
    name,
    layout,
    ...(options.layout === undefined && guess ? { guess } : {}),
    bytes: sizes.reduce((sum, size) => sum + size, 0),
    async *batches() {
      for await (const batch of records()) yield readBatch(batch, layout, fields);
    },
    close: async () => {},
  };
}

async function fileOf(path: string, options: StreamOptions): Promise<RecordFile[]> {
  const format = options.format ?? formatOf(path);
  if (format) return [{ path, format }];
  const mayBeLabelled = /\.txt$/i.test(path) && (options.layout ?? "classification") === "classification";
  return mayBeLabelled && (await beginsLabelled(path, options)) ? [{ path, format: "labelled" }] : [];
}

async function beginsLabelled(path: string, { encoding }: StreamOptions): Promise<boolean> {
  const source = await openFile(path);
  try {
    for await (const { lines } of lineBatches(source, encoding)) return isLabelled(lines.slice(0, SAMPLE));
    return false;
  } finally {
    await source.close();
  }
}

/** A folder is a dataset in parts when it holds such files and no text beside a readme. */
async function shardsIn(folder: string): Promise<RecordFile[]> {
  const names = await listDir(folder);
  const files = names.flatMap((name) => {
    const format = formatOf(name);
    return format === "jsonl" || format === "parquet" ? [{ path: joinPath(folder, name), format }] : [];
  });
  const isText = (name: string) =>
    TEXT_EXTENSIONS.some((ending) => name.toLowerCase().endsWith(`.${ending}`)) && !/^readme/i.test(name);
  return names.some(isText) ? [] : files;
}

type Records = () => AsyncGenerator<readonly NamedRecord[]>;
type NamedRecord = Omit<RawRecord, "row"> & { readonly row: number | string };

function recordsOf(files: readonly RecordFile[], options: StreamOptions): Records {
  const several = files.length > 1;
  // A JSON file is parsed whole; once is enough.
  const parsed = new Map<string, (readonly RawRecord[])[]>();
  const read = async function* (path: string, format: RecordFormat) {
    const kept = parsed.get(path);
    if (kept) return yield* kept;
    const batches: (readonly RawRecord[])[] = [];
    for await (const batch of readRecords(path, format, options)) {
      if (format === "json") batches.push(batch);
      yield batch;
    }
    if (format === "json") parsed.set(path, batches);
  };
  return async function* () {
    for (const { path, format } of files) {
      const prefix = several ? `${basename(path)}:` : undefined;
      for await (const batch of read(path, format)) {
        yield prefix ? batch.map((record) => ({ ...record, row: prefix + record.row })) : batch;
      }
    }
  };
}

/** The layout of the first rows, or of later ones where the first have none of the fields. */
async function guessOf(
  records: Records,
  { fields, layout }: StreamOptions,
): Promise<LayoutGuess | undefined> {
  let values: unknown[] = [];
  const guess = () => {
    const found = detectLayout(values, fields ?? {}, layout);
    values = [];
    return found;
  };
  for await (const batch of records()) {
    for (const { value, problem } of batch) {
      if (problem === undefined) values.push(value);
      const found = values.length === SAMPLE ? guess() : undefined;
      if (found) return found;
    }
  }
  return guess();
}

function readBatch(batch: readonly NamedRecord[], layout: Layout, fields: FieldNames): RowBatch {
  const rows: NumberedRow[] = [];
  const dropped: DroppedRow[] = [];
  for (const { row, value, problem } of batch) {
    const read = problem ?? readRow(value, layout, fields);
    if (typeof read === "string") dropped.push({ row, reason: read });
    else rows.push({ row, value: read, raw: value });
  }
  return { rows, dropped };
}

async function mediaStream(path: string, archive: Archive, options: StreamOptions): Promise<RowStream> {
  const media = await mediaIn(archive, options);
  const nameOf = (name: string) => name.slice(path.length + 1);
  return {
    name: path,
    layout: media.kind,
    bytes: media.bytes,
    async *batches() {
      const rows = media.rows.map((value) => ({ row: nameOf(value.file.name), value }));
      yield { rows, dropped: media.dropped };
    },
    close: media.close,
  };
}

async function unknownLayout(name: string, records: Records): Promise<TunesmithError> {
  let first: NamedRecord | undefined;
  let count = 0;
  const dropped: DroppedRow[] = [];
  for await (const batch of records()) {
    first ??= batch[0];
    count += batch.length;
    for (const { row, problem } of batch.slice(0, Math.max(0, SAMPLE - dropped.length))) {
      dropped.push({ row, reason: problem ?? "no known layout" });
    }
  }
  if (!first) {
    return new TunesmithError("data-empty", `${name} holds no rows`, {
      fix: "give a file with at least one row",
    });
  }
  const keys = isFields(first.value) ? Object.keys(first.value).join(", ") : typeof first.value;
  return new TunesmithError(
    "data-empty",
    `${name}: all ${count} rows dropped, none has the fields of a known layout (first row: ${keys})`,
    {
      fix: "use {text}, {prompt, completion}, {messages}, {instruction, input, output}, {prompt, chosen, rejected}, {text, label} or {tokens, tags}, or name the fields with `fields`",
      details: { dropped },
    },
  );
}
