import { TunesmithError } from "../errors/index.js";
import { fingerprinter, mix } from "./doctor/fingerprint.js";
import { textsOf } from "./rows.js";
import type { RowStream } from "./stream.js";
import type { NumberedRow, Row } from "./types.js";

export interface PartitionOptions {
  /** Share of each part, by name; they sum to 1. */
  readonly shares: Readonly<Record<string, number>>;
  /** Default 0. */
  readonly seed?: number;
  /** Every class gets the shares. Default: for rows with classes. */
  readonly stratify?: boolean;
}

/** Which part each row of a dataset is in. */
export interface Partition {
  /** Rows per part. */
  readonly counts: Readonly<Record<string, number>>;
  /** The rows in order with their part; reads the dataset again. */
  rows(): AsyncGenerator<{ readonly part: string; readonly row: NumberedRow }>;
}

/**
 * Splits a dataset into parts. Each row goes by a seeded hash of its input, so that rows of one input (and, where parts are
 * stratified, of one class) stay together, however often they occur; within a class the shares are met to within rounding and
 * such groups. Reads the rows twice and keeps about 16 bytes for each.
 *
 * Throws `config-invalid` for shares that are not positive or do not sum to 1, `data-empty` when a part would be empty.
 *
 * @example
 * ```ts
 * import { openRows, partitionRows } from "tunesmith/data";
 * const stream = await openRows("all.jsonl");
 * if (stream) {
 *   const { counts, rows } = await partitionRows(stream, { shares: { train: 0.9, validation: 0.1 } });
 *   for await (const { part, row } of rows()) console.log(part, row.value);
 *   console.log(counts);
 * }
 * ```
 */
export async function partitionRows(stream: RowStream, options: PartitionOptions): Promise<Partition> {
  const names = Object.keys(options.shares);
  const bounds = boundsOf(options.shares);
  const stratify = options.stratify ?? true;
  const draws = new Map<string, number[]>();
  const draw = drawer(options.seed ?? 0);
  for await (const { rows } of stream.batches()) {
    for (const { value } of rows) {
      const group = stratify ? groupOf(value) : "";
      const list = draws.get(group) ?? [];
      list.push(draw(value));
      draws.set(group, list);
    }
  }
  const thresholds = new Map(
    [...draws].map(([group, list]) => {
      const sorted = Float64Array.from(list).sort();
      // Infinity: nothing of this group lies beyond.
      return [
        group,
        bounds.map((bound) => sorted[Math.round(bound * sorted.length)] ?? Number.POSITIVE_INFINITY),
      ];
    }),
  );
  const partOf = (row: Row): string => {
    const limits = thresholds.get(stratify ? groupOf(row) : "") ?? [];
    const value = draw(row);
    const at = limits.findIndex((limit) => value < limit);
    return names[at < 0 ? names.length - 1 : at] as string;
  };
  const counts = countsOf(names, draws, thresholds);
  const empty = names.find((name) => counts[name] === 0);
  if (empty !== undefined) {
    throw new TunesmithError("data-empty", `${stream.name}: the part '${empty}' would be empty`, {
      fix: "give more rows, a larger share, or stratify: false",
      details: { counts },
    });
  }
  return {
    counts,
    async *rows() {
      for await (const batch of stream.batches()) {
        for (const row of batch.rows) yield { part: partOf(row.value), row };
      }
    },
  };
}

/** Where each part but the last ends, as a share of all. */
function boundsOf(shares: Readonly<Record<string, number>>): number[] {
  const values = Object.values(shares);
  const sum = values.reduce((total, share) => total + share, 0);
  if (values.length < 2 || values.some((share) => !(share > 0)) || Math.abs(sum - 1) > 1e-9) {
    throw new TunesmithError("config-invalid", `shares of ${values.join(", ")} do not split a dataset`, {
      fix: "give two or more shares above 0 that sum to 1",
    });
  }
  let end = 0;
  return values.slice(0, -1).map((share) => {
    end += share;
    return end;
  });
}

function countsOf(
  names: readonly string[],
  draws: ReadonlyMap<string, readonly number[]>,
  thresholds: ReadonlyMap<string, readonly number[]>,
): Record<string, number> {
  const counts = Object.fromEntries(names.map((name) => [name, 0]));
  for (const [group, list] of draws) {
    const limits = thresholds.get(group) ?? [];
    for (const value of list) {
      const at = limits.findIndex((limit) => value < limit);
      const name = names[at < 0 ? names.length - 1 : at] as string;
      counts[name] = (counts[name] ?? 0) + 1;
    }
  }
  return counts;
}

/** The class, or what stands for one. */
function groupOf(row: Row): string {
  if (row.kind === "feedback") return String(row.desirable);
  return "label" in row ? String(row.label) : "";
}

/** A number in [0, 1) that depends on the seed and on what the row asks. */
function drawer(seed: number): (row: Row) => number {
  const fingerprint = fingerprinter();
  return (row) => {
    const { high, low } = fingerprint("file" in row ? row.file.name : textsOf(row).input);
    const [a, b] = [mix(high ^ mix(seed)), mix(low + seed)];
    return (a * 2 ** 21 + (b >>> 11)) / 2 ** 53;
  };
}
