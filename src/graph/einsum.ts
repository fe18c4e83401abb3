import { TunesmithError } from "../errors/index.js";

/**
 * An Einsum equation with one letter per axis: spaces removed, an ellipsis replaced by unused letters (aligned
 * right), an implicit result written out (letters that occur once, in alphabetical order).
 *
 * Throws `shape-mismatch` when a term does not fit its operand's rank.
 */
export function einsumTerms(
  equation: string,
  ranks: readonly number[],
  what: string,
): { readonly terms: readonly string[]; readonly result: string } {
  const [left = "", right] = equation.replaceAll(" ", "").split("->");
  const raw = left.split(",");
  const unused = [..."ZYXWVUTSRQPONMLKJIHGFEDCBA"].filter((letter) => !equation.includes(letter));
  const lengths = raw.map((term, index) => (ranks[index] ?? 0) - term.replace("...", "").length);
  const longest = Math.max(
    0,
    ...raw.flatMap((term, index) => (term.includes("...") ? [lengths[index] ?? 0] : [])),
  );
  const batch = unused.slice(0, longest).join("");
  const terms = raw.map((term, index) => {
    const full = term.replace("...", batch.slice(longest - Math.max(0, lengths[index] ?? 0)));
    if (raw.length === ranks.length && full.length === ranks[index]) return full;
    throw new TunesmithError(
      "shape-mismatch",
      `${what}: '${equation}' does not fit operand ${index} of rank ${ranks[index]}`,
    );
  });
  const all = raw.join("").replaceAll("...", "");
  const once = [...new Set(all)].filter((letter) => all.split(letter).length === 2).sort();
  return { terms, result: right === undefined ? batch + once.join("") : right.replace("...", batch) };
}
