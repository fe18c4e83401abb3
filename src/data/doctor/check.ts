import type { Tokenizer } from "../../models/tokenizer/index.js";
import { rng } from "../../runtime/random/index.js";
import { decodeWav } from "../audio/index.js";
import { decodeImage } from "../image/index.js";
import { textsOf } from "../rows.js";
import type { RowStream } from "../stream.js";
import type { ResolvedTemplate } from "../template.js";
import { resolveTemplate } from "../template.js";
import type { TokenizeOptions } from "../tokenize.js";
import type { DroppedRow, Layout, LayoutGuess, MediaRow, NumberedRow, Row } from "../types.js";
import { type DuplicateOptions, type DuplicateReport, duplicateFinder, EXAMPLES } from "./duplicates.js";
import { type Lengths, lengthCounter } from "./lengths.js";
import { checkTokenizer, checkTokens, type Finding, type TokenReport } from "./tokens.js";

/** One of the datasets that belong together: `train`, `validation`, ... */
export interface CheckPart {
  readonly name: string;
  readonly stream: RowStream;
}

export interface CheckOptions extends DuplicateOptions, Omit<TokenizeOptions, "maxLength" | "onProgress"> {
  /** With one, rows are tokenized and special tokens checked. */
  readonly tokenizer?: Tokenizer;
  /** Rows of the model's embedding. Default: not checked. */
  readonly vocabSize?: number;
  /** Tokens per example at most. Default 1024. */
  readonly maxLength?: number;
  /** How many rows are tokenized, drawn evenly; a part with fewer is tokenized whole. Default 2000. */
  readonly tokenRows?: number;
  /** Default 0. */
  readonly seed?: number;
  /** Called with every dropped row, of which the report only holds the first. */
  readonly onDropped?: (part: string, dropped: DroppedRow) => void | Promise<void>;
  /** Called after each batch with the rows so far. */
  readonly onProgress?: (rows: number) => void;
}

/** Rows that were dropped for one reason. */
export interface DropReason {
  readonly reason: string;
  readonly count: number;
  readonly rows: readonly (number | string)[];
}

export interface PartReport {
  readonly name: string;
  readonly source: string;
  readonly layout: Layout;
  readonly guess?: LayoutGuess;
  readonly bytes: number;
  /** Rows kept. */
  readonly rows: number;
  /** Why rows were dropped, the most frequent reason first. */
  readonly dropped: readonly DropReason[];
  /** UTF-16 units of all texts of a row; of media, pixels or seconds. */
  readonly lengths: Lengths | undefined;
  /** Rows per class or tag, the most frequent first; at most 1000. */
  readonly labels: readonly (readonly [label: string | number, count: number])[];
  readonly tokens?: TokenReport;
}

export interface DatasetCheck {
  readonly parts: readonly PartReport[];
  readonly duplicates: DuplicateReport;
  /** How conversations are laid out; absent without a tokenizer or template. */
  readonly template?: ResolvedTemplate;
  /** The worst first. */
  readonly findings: readonly Finding[];
}

const MAX_LABELS = 1000;
/** Reasons that are kept apart; a file with more holds something in them that differs by row. */
const MAX_REASONS = 1000;

/**
 * Reads datasets once and reports what would go wrong in training: dropped rows and why, lengths and truncation, exact and
 * near duplicates, rows of one part in another (leakage), classes, and, with a tokenizer, special tokens and ends of answers.
 * Memory does not grow with the number of rows beyond `memoryBytes` (files of JSON and texts are held whole).
 *
 * Throws what reading the rows throws.
 *
 * @param parts Held-out parts first, or last: they are read from the smallest to the largest.
 *
 * @example
 * ```ts
 * import { checkDataset, openRows } from "tunesmith/data";
 * const stream = await openRows("train.jsonl");
 * if (stream) {
 *   const { findings, duplicates } = await checkDataset([{ name: "train", stream }]);
 *   console.log(duplicates.exact.count, findings);
 * }
 * ```
 */
export async function checkDataset(
  parts: readonly CheckPart[],
  options: CheckOptions = {},
): Promise<DatasetCheck> {
  const finder = duplicateFinder(
    parts.map(({ name }) => name),
    options,
  );
  const { tokenizer } = options;
  const template = tokenizer ? await resolveTemplate(tokenizer, options.chatTemplate) : undefined;
  const findings: Finding[] = [];
  const reports: PartReport[] = [];
  let rowsBefore = 0;
  // The tables may fill up: what is held out is to be in them.
  const order = [...parts.keys()].sort(
    (a, b) => (parts[a]?.stream.bytes ?? 0) - (parts[b]?.stream.bytes ?? 0),
  );
  for (const index of order) {
    const part = parts[index] as CheckPart;
    const progress = (rows: number) => options.onProgress?.(rowsBefore + rows);
    const { report, sample } = await readPart(part, index, finder, { ...options, onProgress: progress });
    rowsBefore += report.rows;
    if (!tokenizer) reports[index] = report;
    else {
      // Said once below, not for every row.
      const told = template ? sample : sample.filter(({ value }) => value.kind !== "chat");
      const { tokens, found } = tokensOf(told, tokenizer, options);
      reports[index] = { ...report, ...(tokens.lengths ? { tokens } : {}) };
      findings.push(...found);
    }
  }
  const chats = reports.some(({ layout }) => layout === "chat");
  if (tokenizer) findings.push(...checkTokenizer(tokenizer, template?.template, chats));
  const duplicates = finder.report();
  findings.push(...dataFindings(reports, duplicates));
  return {
    parts: reports,
    duplicates,
    ...(template ? { template } : {}),
    findings: findings.sort((a, b) => SEVERITY.indexOf(a.severity) - SEVERITY.indexOf(b.severity)),
  };
}

const SEVERITY: readonly Finding["severity"][] = ["error", "warning", "note"];

function tokensOf(sample: readonly NumberedRow[], tokenizer: Tokenizer, options: CheckOptions) {
  const { maxLength = 1024, vocabSize, appendEos, chatTemplate, trainOn } = options;
  const { report, findings } = checkTokens(sample, tokenizer, {
    maxLength,
    ...(vocabSize === undefined ? {} : { vocabSize }),
    ...(appendEos === undefined ? {} : { appendEos }),
    ...(chatTemplate === undefined ? {} : { chatTemplate }),
    ...(trainOn === undefined ? {} : { trainOn }),
  });
  return { tokens: report, found: findings };
}

/** Reads a part once: counts, compares, and draws the rows to tokenize. */
async function readPart(
  { name, stream }: CheckPart,
  index: number,
  finder: ReturnType<typeof duplicateFinder>,
  options: CheckOptions,
): Promise<{ report: PartReport; sample: NumberedRow[] }> {
  const reasons = new Map<string, { count: number; rows: (number | string)[] }>();
  const labels = new Map<string | number, number>();
  const lengths = lengthCounter();
  const draw = reservoir(options.tokenizer ? (options.tokenRows ?? 2000) : 0, options.seed ?? 0, name);
  let rows = 0;
  const drop = async (dropped: DroppedRow) => {
    const key = reasons.has(dropped.reason) || reasons.size < MAX_REASONS ? dropped.reason : "other reasons";
    const entry = reasons.get(key) ?? { count: 0, rows: [] };
    entry.count++;
    if (entry.rows.length < EXAMPLES) entry.rows.push(dropped.row);
    reasons.set(key, entry);
    if (options.onDropped) await options.onDropped(name, dropped);
  };
  for await (const batch of stream.batches()) {
    for (const dropped of batch.dropped) await drop(dropped);
    for (const numbered of batch.rows) {
      const { value } = numbered;
      const isMedia = value.kind === "image" || value.kind === "audio";
      const media = isMedia ? await readMedia(value) : undefined;
      if (typeof media === "string") {
        await drop({ row: numbered.row, reason: media });
        continue;
      }
      rows++;
      finder.add(index, numbered, media?.content);
      lengths.add(media?.size ?? lengthOf(value));
      countLabels(labels, value);
      draw.add(numbered);
      if (isMedia && rows % 256 === 0) options.onProgress?.(rows);
    }
    options.onProgress?.(rows);
  }
  const byCount = <T>(a: readonly [T, number], b: readonly [T, number]) => b[1] - a[1];
  return {
    sample: draw.rows,
    report: {
      name,
      source: stream.name,
      layout: stream.layout,
      ...(stream.guess ? { guess: stream.guess } : {}),
      bytes: stream.bytes,
      rows,
      dropped: [...reasons]
        .map(([reason, entry]) => ({ reason, ...entry }))
        .sort((a, b) => b.count - a.count),
      lengths: lengths.report(),
      labels: [...labels].sort(byCount),
    },
  };
}

function lengthOf(row: Row): number {
  const { input, output } = textsOf(row);
  return input.length + output.length;
}

function countLabels(labels: Map<string | number, number>, row: Row): void {
  const count = (label: string | number) => {
    if (labels.has(label) || labels.size < MAX_LABELS) labels.set(label, (labels.get(label) ?? 0) + 1);
  };
  if (row.kind === "tags") row.tags.forEach(count);
  else if (row.kind === "feedback") count(String(row.desirable));
  else if ("label" in row) count(row.label);
}

/** Content for comparing and a size; a string says why the file cannot be used. */
async function readMedia(row: MediaRow): Promise<{ content: string; size: number } | string> {
  const bytes = await row.file.read();
  // Equal files have equal bytes; as text they go through the same hash.
  const content = new TextDecoder("latin1").decode(bytes);
  try {
    if (row.kind === "image") {
      const { width, height } = decodeImage(bytes, "the file");
      return { content, size: width * height };
    }
    const { channels, sampleRate } = decodeWav(bytes, "the file");
    return { content, size: Math.ceil((channels[0]?.length ?? 0) / sampleRate) };
  } catch (error) {
    return (error as Error).message.split("\n")[0] ?? "cannot be decoded";
  }
}

/** Draws `size` rows, each with the same chance (Vitter 1985, algorithm R). */
function reservoir(size: number, seed: number, name: string) {
  const random = rng(seed, "data-check", name);
  const rows: NumberedRow[] = [];
  let seen = 0;
  return {
    rows,
    add(row: NumberedRow): void {
      seen++;
      if (rows.length < size) rows.push(row);
      else if (size > 0) {
        const at = Math.floor(random.uniform() * seen);
        if (at < size) rows[at] = row;
      }
    },
  };
}

function dataFindings(
  parts: readonly PartReport[],
  { exact, near, contradictions, leakage }: DuplicateReport,
) {
  const findings: Finding[] = [];
  for (const { name, rows, dropped, guess } of parts) {
    const count = dropped.reduce((sum, reason) => sum + reason.count, 0);
    if (count > 0) {
      findings.push({
        severity: count > (rows + count) / 10 ? "warning" : "note",
        code: "dropped",
        message: `${name}: ${count} of ${rows + count} rows are dropped, most often: ${dropped[0]?.reason}`,
        count,
        rows: dropped[0]?.rows ?? [],
      });
    }
    if (guess && guess.confidence < 0.95 && guess.confidence > 0) {
      findings.push({
        severity: "note",
        code: "layout-guessed",
        message: `${name}: read as ${guess.layout} (${Math.round(100 * guess.confidence)} % sure): ${guess.reason}`,
        fix: "name `layout` and `fields` if that is wrong",
      });
    }
  }
  const add = (severity: Finding["severity"], code: string, count: number, message: string, fix: string) => {
    if (count > 0) findings.push({ severity, code, message, fix, count });
  };
  add(
    "error",
    "leakage",
    leakage.exact.count,
    `${leakage.exact.count} rows are in two parts`,
    "remove them from one part, or split anew (data split keeps equal rows together)",
  );
  add(
    "warning",
    "near-leakage",
    leakage.near.count,
    `${leakage.near.count} rows are nearly equal to one of another part`,
    "remove them from one part if the held-out score is to mean anything",
  );
  add(
    "warning",
    "input-leakage",
    leakage.input.count,
    `${leakage.input.count} rows have an input that another part has with another output`,
    "split anew without classes (data split --no-stratify), which keeps rows of one input together",
  );
  add(
    "warning",
    "duplicates",
    exact.count,
    `${exact.count} rows repeat an earlier one`,
    "remove them, unless the weight is meant",
  );
  add(
    "note",
    "near-duplicates",
    near.count,
    `${near.count} rows are nearly equal to an earlier one`,
    "look at some of them",
  );
  const isLabelled = parts.some(({ layout }) => layout === "classification" || layout === "tags");
  const inside = contradictions.count - leakage.input.count;
  add(
    isLabelled ? "warning" : "note",
    isLabelled ? "contradictions" : "several-outputs",
    inside,
    `${inside} rows have the input of an earlier one and another ${isLabelled ? "label" : "output"}`,
    isLabelled ? "correct the labels" : "fine where several outputs are right",
  );
  return findings;
}
