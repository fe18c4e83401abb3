import { textsOf } from "../rows.js";
import type { NumberedRow, Row } from "../types.js";
import { fingerprinter } from "./fingerprint.js";
import { hashTable, signatureTable } from "./tables.js";

/** Two rows that say the same, or nearly. */
export interface Match {
  readonly part: string;
  readonly row: number | string;
  /** The earlier row. */
  readonly of: { readonly part: string; readonly row: number | string };
}

/** How often something was found, and the first cases. */
export interface Matches {
  readonly count: number;
  readonly examples: readonly Match[];
}

export interface DuplicateReport {
  /** Rows whose whole content is that of an earlier row of their part. */
  readonly exact: Matches;
  /** Rows that share at least `threshold` of their phrases with an earlier row of their part. */
  readonly near: Matches;
  /** Rows of one input and different outputs, also over parts: labels that contradict, or several right answers. */
  readonly contradictions: Matches;
  /** Rows of another part with the same content, with nearly the same, or with the same input. */
  readonly leakage: { readonly exact: Matches; readonly near: Matches; readonly input: Matches };
  /** Share of phrases from which on texts count as near duplicates. */
  readonly threshold: number;
  /** False when the memory was used up: later rows were compared with the earlier ones only, not with each other. */
  readonly complete: boolean;
}

export interface DuplicateOptions {
  /** Default 0.8. */
  readonly threshold?: number;
  /** For all tables together. Default 256 MiB: a million rows. */
  readonly memoryBytes?: number;
}

/** How many cases of each finding are named. */
export const EXAMPLES = 5;

interface Counter {
  count: number;
  readonly examples: Match[];
}

/** Compares rows as they come with those before; add the held-out parts first, as the tables may fill up. */
export function duplicateFinder(parts: readonly string[], options: DuplicateOptions = {}) {
  const { threshold = 0.8, memoryBytes = 256 * 2 ** 20 } = options;
  const contents = hashTable(memoryBytes / 6);
  const inputs = hashTable(memoryBytes / 6);
  const near = signatureTable(memoryBytes / 2, threshold);
  const origins = originList(memoryBytes / 6);
  const fingerprint = fingerprinter();
  const counter = (): Counter => ({ count: 0, examples: [] });
  const found = {
    exact: counter(),
    near: counter(),
    contradictions: counter(),
    leaked: counter(),
    leakedNear: counter(),
    leakedInput: counter(),
  };
  const note = (into: Counter, part: number, row: number | string, earlier: number) => {
    into.count++;
    if (into.examples.length >= EXAMPLES) return;
    const of = origins.get(earlier);
    into.examples.push({ part: parts[part] ?? "", row, of: { part: parts[of.part] ?? "", row: of.row } });
  };
  let ordinal = 0;
  return {
    /** @param content Stands for the row's bytes where it has no text (images, sounds). */
    add(part: number, { row, value }: NumberedRow, content?: string): void {
      const entry = origins.push(part, typeof row === "number" ? row : ++ordinal);
      if (entry === undefined) return;
      const { input, output } = content === undefined ? textsOf(value) : { input: content, output: "" };
      const print = fingerprint(output === "" ? input : `${input}\n${output}`);
      const same = contents.add(print.high, print.low, entry);
      if (same !== undefined) {
        const elsewhere = origins.get(same).part !== part;
        note(elsewhere ? found.leaked : found.exact, part, row, same);
        return;
      }
      const like = print.comparable ? near.add(print, entry) : undefined;
      const sameInput = hasInput(value) ? addInput(inputs, fingerprint(input), entry) : undefined;
      if (sameInput !== undefined) note(found.contradictions, part, row, sameInput);
      if (sameInput !== undefined && origins.get(sameInput).part !== part) {
        note(found.leakedInput, part, row, sameInput);
      } else if (like !== undefined) {
        note(origins.get(like).part === part ? found.near : found.leakedNear, part, row, like);
      }
    },
    report(): DuplicateReport {
      return {
        exact: found.exact,
        near: found.near,
        contradictions: found.contradictions,
        leakage: { exact: found.leaked, near: found.leakedNear, input: found.leakedInput },
        threshold,
        complete: !(contents.full || inputs.full || near.full || origins.full),
      };
    },
  };
}

const addInput = (table: ReturnType<typeof hashTable>, print: { high: number; low: number }, entry: number) =>
  table.add(print.high, print.low, entry);

/** Rows that are asked something; a text is all there is. */
const hasInput = ({ kind }: Row): boolean => kind !== "text" && kind !== "image" && kind !== "audio";

/** Part and number of every row that was seen, in typed arrays. */
function originList(maxBytes: number) {
  const most = Math.floor(maxBytes / 5);
  let capacity = Math.min(most, 4096);
  let rows = new Uint32Array(capacity);
  let parts = new Uint8Array(capacity);
  let count = 0;
  return {
    push(part: number, row: number): number | undefined {
      if (count === capacity) {
        if (capacity === most) return undefined;
        capacity = Math.min(most, 2 * capacity);
        const [grownRows, grownParts] = [new Uint32Array(capacity), new Uint8Array(capacity)];
        grownRows.set(rows);
        grownParts.set(parts);
        [rows, parts] = [grownRows, grownParts];
      }
      rows[count] = row;
      parts[count] = part;
      return count++;
    },
    get: (entry: number) => ({ part: parts[entry] ?? 0, row: rows[entry] ?? 0 }),
    get full() {
      return count === most;
    },
  };
}
