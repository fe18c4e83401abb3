import { appendText, fileExists, readFile, writeFileAtomic } from "#io";
import { TunesmithError } from "../errors/index.js";

/** One line of a metrics file. Non-finite numbers are written as the strings "NaN", "Infinity" and "-Infinity". */
export interface MetricsRecord {
  readonly step: number;
  readonly [name: string]: number | string | boolean | null | undefined;
}

/** An open metrics file. */
export interface MetricsWriter {
  readonly path: string;
  /** Appends one line; earlier lines are never rewritten. */
  write(record: MetricsRecord): Promise<void>;
}

/** The records of a metrics file, and whether its last line was cut off by a crash (and left out). */
export interface MetricsFile {
  readonly records: readonly MetricsRecord[];
  readonly torn: boolean;
}

/**
 * Opens a JSONL metrics file for appending.
 *
 * @param options.resumeAt Keep the lines up to and including this step and drop later ones, which a resumed run will
 *   write again. Default: start an empty file.
 * @throws `file-corrupt` when an existing file is not a metrics file.
 *
 * @example
 * ```ts
 * import { openMetrics } from "tunesmith/training";
 * const metrics = await openMetrics("run/metrics.jsonl", { resumeAt: 120 });
 * await metrics.write({ step: 121, loss: 2.31, learningRate: 2e-4 });
 * ```
 */
export async function openMetrics(path: string, options: { resumeAt?: number } = {}): Promise<MetricsWriter> {
  const { resumeAt } = options;
  if (resumeAt === undefined || !(await fileExists(path))) await writeFileAtomic(path, "");
  else {
    const { records, torn } = await readMetrics(path);
    const kept = records.filter((record) => record.step <= resumeAt);
    if (torn || kept.length < records.length) await writeFileAtomic(path, kept.map(toLine).join(""));
  }
  // Lines keep their order even when callers do not wait for one before writing the next.
  let last: Promise<void> = Promise.resolve();
  return {
    path,
    write(record) {
      const line = toLine(record);
      last = last.catch(() => undefined).then(() => appendText(path, line));
      return last;
    },
  };
}

/**
 * Reads a metrics file. A last line without its line end is what a crash leaves; it is left out and reported.
 *
 * @throws `file-not-found`, or `file-corrupt` naming the line that is not a metrics record.
 */
export async function readMetrics(path: string): Promise<MetricsFile> {
  const bytes = await readFile(path);
  // Cut before decoding: a torn line may end inside a character.
  const end = bytes.lastIndexOf(10) + 1;
  const lines = new TextDecoder().decode(bytes.subarray(0, end)).split("\n");
  lines.pop();
  return {
    records: lines.map((line, index) => parseLine(path, line, index + 1)),
    torn: end < bytes.length,
  };
}

function toLine(record: MetricsRecord): string {
  const value = (_key: string, v: unknown): unknown =>
    typeof v === "number" && !Number.isFinite(v) ? String(v) : v;
  return `${JSON.stringify(record, value)}\n`;
}

function parseLine(path: string, line: string, number: number): MetricsRecord {
  let cause: unknown;
  try {
    const record: unknown = JSON.parse(line);
    if (isRecord(record)) return record;
  } catch (error) {
    cause = error;
  }
  throw new TunesmithError("file-corrupt", `${path}: line ${number} is not a metrics record`, {
    fix: "choose another path for the metrics, or remove the line",
    cause,
    details: { path, line: number },
  });
}

function isRecord(value: unknown): value is MetricsRecord {
  return typeof value === "object" && value !== null && "step" in value && typeof value.step === "number";
}
