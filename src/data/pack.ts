import { TunesmithError } from "../errors/index.js";
import type { TokenizedExample } from "./types.js";

/** Examples that share a row of a batch; attention must not cross from one to another. */
export interface Pack {
  /** Positions of the examples in the list that was packed; names the pack in caches. */
  readonly indices: readonly number[];
  readonly examples: readonly TokenizedExample[];
  /** Tokens of all examples. */
  readonly tokens: number;
}

export interface PackOptions {
  /** Tokens per row at most. */
  readonly length: number;
  /**
   * `ffd` first-fit decreasing: fewest rows; `sequential`: examples stay in order, a new row begins when one does not
   * fit; `none`: one example per row. Default `ffd`.
   */
  readonly strategy?: "ffd" | "sequential" | "none";
}

/**
 * Groups examples into rows of at most `length` tokens. The result depends only on the arguments.
 *
 * Throws `data-invalid` for an example longer than `length`.
 *
 * @example
 * ```ts
 * import { packExamples } from "tunesmith/data";
 * const example = (n: number) => ({ ids: new Int32Array(n), lossMask: new Uint8Array(n) });
 * const packs = packExamples([example(5), example(3), example(2)], { length: 8 });
 * console.log(packs.length); // 2
 * ```
 */
export function packExamples(examples: readonly TokenizedExample[], options: PackOptions): Pack[] {
  const { length, strategy = "ffd" } = options;
  const tooLong = examples.findIndex((example) => example.ids.length > length);
  if (tooLong >= 0) {
    throw new TunesmithError(
      "data-invalid",
      `example ${tooLong} has ${examples[tooLong]?.ids.length} tokens, more than the row length ${length}`,
      { fix: "tokenize with maxLength no greater than the length of a row" },
    );
  }
  const lengths = examples.map((example) => example.ids.length);
  return group(lengths, length, strategy).map((indices) => ({
    indices,
    examples: indices.map((index) => examples[index] as TokenizedExample),
    tokens: indices.reduce((sum, index) => sum + (lengths[index] as number), 0),
  }));
}

function group(lengths: readonly number[], length: number, strategy: PackOptions["strategy"]): number[][] {
  if (strategy === "none") return lengths.map((_, index) => [index]);
  if (strategy === "ffd") return firstFitDecreasing(lengths, length);
  const groups: number[][] = [];
  let room = 0;
  lengths.forEach((size, index) => {
    if (size > room || groups.length === 0) {
      groups.push([]);
      room = length;
    }
    groups.at(-1)?.push(index);
    room -= size;
  });
  return groups;
}

/** Johnson 1974. A tree over the rows' free room finds the first that fits in O(log n). */
function firstFitDecreasing(lengths: readonly number[], length: number): number[][] {
  const order = [...lengths.keys()].sort((a, b) => (lengths[b] as number) - (lengths[a] as number) || a - b);
  let leaves = 1;
  while (leaves < lengths.length) leaves *= 2;
  // A node holds the greatest free room below it; rows not yet opened have all of it.
  const room = new Float64Array(2 * leaves).fill(length);
  const groups: number[][] = [];
  for (const index of order) {
    const size = lengths[index] as number;
    let node = 1;
    while (node < leaves) node = (room[2 * node] as number) >= size ? 2 * node : 2 * node + 1;
    const row = node - leaves;
    groups[row] ??= [];
    groups[row]?.push(index);
    room[node] = (room[node] as number) - size;
    for (node >>= 1; node > 0; node >>= 1) {
      room[node] = Math.max(room[2 * node] as number, room[2 * node + 1] as number);
    }
  }
  return groups;
}
