/** Counts of n-grams. */
export type Counts = ReadonlyMap<string, number>;

/** n-grams of tokens; a token never holds the separator, a line end. */
export function ngrams(tokens: readonly string[], n: number, separator = "\n"): Map<string, number> {
  const counts = new Map<string, number>();
  for (let at = 0; at + n <= tokens.length; at++) {
    const key = tokens.slice(at, at + n).join(separator);
    counts.set(key, (counts.get(key) ?? 0) + 1);
  }
  return counts;
}

/** Size of the multiset intersection. */
export function overlap(a: Counts, b: Counts): number {
  let common = 0;
  for (const [key, count] of a) common += Math.min(count, b.get(key) ?? 0);
  return common;
}

/** Size of a multiset. */
export function sizeOf(counts: Counts): number {
  let size = 0;
  for (const count of counts.values()) size += count;
  return size;
}

/** Words between white space. */
export const words = (text: string): string[] => text.split(/\s+/).filter((word) => word !== "");
