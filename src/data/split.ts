import { TunesmithError } from "../errors/index.js";
import { rng } from "../runtime/random/index.js";
import type { Dataset, Row } from "./types.js";

export interface SplitOptions {
  /** Share held out, in (0, 1). Default 0.1. */
  readonly validation?: number;
  /** Default 0. */
  readonly seed?: number;
}

export interface Split {
  readonly train: readonly Row[];
  readonly validation: readonly Row[];
}

/**
 * Holds out a part of a dataset. Each row goes by a seeded hash of its content, so that equal rows stay together and
 * a row keeps its side when others are added; the share is therefore met on average only, but neither side is empty.
 * A dataset of one document is cut into a head and a contiguous tail at a line end.
 *
 * Throws `config-invalid` for a share outside (0, 1), `data-empty` when there is too little to cut.
 *
 * @example
 * ```ts
 * import { loadDataset, splitDataset } from "tunesmith/data";
 * const { train, validation } = splitDataset(await loadDataset("notes.txt"), { validation: 0.1, seed: 1 });
 * console.log(train.length, validation.length);
 * ```
 */
export function splitDataset(dataset: Pick<Dataset, "name" | "rows">, options: SplitOptions = {}): Split {
  const share = options.validation ?? 0.1;
  if (!(share > 0 && share < 1)) {
    throw new TunesmithError("config-invalid", `a validation share of ${share} is not in (0, 1)`, {
      fix: "give for example 0.1",
    });
  }
  const [only, ...others] = dataset.rows;
  if (only && others.length === 0) return splitDocument(dataset.name, only, share);
  const draws = dataset.rows.map((row) =>
    rng(options.seed ?? 0, "split", JSON.stringify(content(row))).uniform(),
  );
  const held = draws.map((draw) => draw < share);
  if (!held.includes(true)) held[indexOfExtreme(draws, -1)] = true;
  if (!held.includes(false)) held[indexOfExtreme(draws, 1)] = false;
  return {
    train: dataset.rows.filter((_, index) => !held[index]),
    validation: dataset.rows.filter((_, index) => held[index]),
  };
}

/** Without the path of a source file, so that copies of a file stay together. */
function content(row: Row): unknown {
  return row.kind === "text" ? row.text : row;
}

function indexOfExtreme(values: readonly number[], sign: 1 | -1): number {
  let best = 0;
  values.forEach((value, index) => {
    if (sign * value > sign * (values[best] ?? 0)) best = index;
  });
  return best;
}

function splitDocument(name: string, row: Row, share: number): Split {
  const text = row.kind === "text" ? row.text : "";
  const aim = Math.floor(text.length * (1 - share));
  // The next line end, else the one before; a document of one line is not cut.
  const after = text.indexOf("\n", aim);
  const cut = (after >= 0 && after < text.length - 1 ? after : text.lastIndexOf("\n", aim)) + 1;
  if (row.kind !== "text" || cut <= 0) {
    throw new TunesmithError("data-empty", `${name} holds a single ${row.kind === "text" ? "line" : "row"}`, {
      fix: "give more rows or lines, or a validation file of its own",
    });
  }
  return {
    train: [{ ...row, text: text.slice(0, cut) }],
    validation: [{ ...row, text: text.slice(cut) }],
  };
}
