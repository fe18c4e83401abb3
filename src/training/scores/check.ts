import { TunesmithError } from "../../errors/index.js";

/** Throws `data-invalid` naming the score. */
export function invalid(score: string, problem: string, fix: string): never {
  throw new TunesmithError("data-invalid", `${score}: ${problem}`, { fix });
}

/** Checks that there is something to score; gives the number of examples. */
export function nonEmpty(score: string, values: ArrayLike<unknown>): number {
  if (values.length > 0) return values.length;
  throw new TunesmithError("data-empty", `${score}: there is nothing to score`, {
    fix: "pass at least one example",
  });
}

/** Checks that two lists go together; gives their length. */
export function paired(score: string, a: ArrayLike<unknown>, b: ArrayLike<unknown>): number {
  if (a.length !== b.length) {
    invalid(score, `${a.length} against ${b.length} values`, "pass one prediction for each reference");
  }
  return nonEmpty(score, a);
}

/** 0 / 0 counts as 0, as in scikit-learn. */
export const ratio = (part: number, whole: number): number => (whole === 0 ? 0 : part / whole);

export const sum = (values: Iterable<number>): number => {
  let total = 0;
  for (const value of values) total += value;
  return total;
};

export const mean = (values: ArrayLike<number>): number => sum(Array.from(values)) / values.length;
