import { constant, ops, type Value } from "../../graph/index.js";
import { tensor } from "../../tensor/index.js";

/**
 * A tree of planes as matrices. Every plane turns what is left of two groups of coordinates, x and y, into a·x + b·y, which goes on,
 * and c·x + e·y, which is done; so each entry of the whole rotation is one product along a path, and the rows that one
 * level finishes, laid on each other, are one vector. Numbers come from a table of all a, then all b, c and e, then 1 and 0.
 */
export interface TreePart {
  /** By level, for every coordinate: the place of its a or b. */
  readonly onward: readonly (readonly number[])[];
  /** The same of its c or e. */
  readonly done: readonly (readonly number[])[];
  /** By row and column: the level whose vector has the entry, `levels` for the row that goes on, −1 for zero. */
  readonly levelOf: Int32Array;
}

interface Group {
  readonly at: number;
  readonly leaves: readonly number[];
}

/** Levels of the tree over `count` coordinates, of which `taken` planes of `planes` came before, until groups of `until` are joined. */
export function treePart(
  count: number,
  planes: number,
  { taken = 0, until = count }: { readonly taken?: number; readonly until?: number } = {},
): TreePart & { readonly taken: number } {
  const one = 4 * planes;
  const [onward, done]: [number[][], number[][]] = [[], []];
  const levelOf = new Int32Array(count * count).fill(-1);
  let groups: Group[] = Array.from({ length: count }, (_, at) => ({ at, leaves: [at] }));
  let plane = taken;
  while (groups.length > count / until) {
    const [next, last]: [number[], number[]] = [new Array(count).fill(one), new Array(count).fill(one)];
    const joined: Group[] = [];
    for (let k = 0; k + 1 < groups.length; k += 2, plane++) {
      const [x, y] = groups.slice(k, k + 2) as [Group, Group];
      for (const leaf of x.leaves) [next[leaf], last[leaf]] = [plane, 2 * planes + plane];
      for (const leaf of y.leaves) [next[leaf], last[leaf]] = [planes + plane, 3 * planes + plane];
      const leaves = [...x.leaves, ...y.leaves];
      for (const leaf of leaves) levelOf[y.at * count + leaf] = onward.length;
      joined.push({ at: x.at, leaves });
    }
    groups = groups.length % 2 ? [...joined, groups.at(-1) as Group] : joined;
    onward.push(next);
    done.push(last);
  }
  for (const { at, leaves } of groups) for (const leaf of leaves) levelOf[at * count + leaf] = onward.length;
  return { onward, done, levelOf, taken: plane };
}

const indices = (list: readonly number[], shape: readonly number[]): Value =>
  constant(tensor("int64", shape, BigInt64Array.from(list, BigInt)));

/** The matrices on the diagonal of a part, `[count / size, size, size]`: all of it where groups of `size` are joined. */
export function treeMatrices({ onward, done, levelOf }: TreePart, table: Value, size: number): Value {
  const [levels, count] = [onward.length, Math.sqrt(levelOf.length)];
  if (levels === 0) return ops.full([count / size, size, size], 1, "float32");
  const picked = (places: readonly (readonly number[])[]) =>
    ops.gather(table, indices(places.flat(), [places.length, count]));
  const steps = ops.split(picked(onward), new Array(levels).fill(1), 0);
  const along: Value[] = [ops.full([1, count], 1, "float32")];
  for (const step of steps) along.push(ops.mul(along.at(-1) as Value, step));
  const finished = ops.mul(ops.concat(along.slice(0, levels), 0), picked(done));
  const vectors = ops.concat([finished, along[levels] as Value, ops.full([1, count], 0, "float32")], 0);
  const places: number[] = [];
  for (let row = 0; row < count; row++) {
    const start = Math.floor(row / size) * size;
    for (let column = start; column < start + size; column++) {
      const level = levelOf[row * count + column] as number;
      places.push((level < 0 ? levels + 1 : level) * count + column);
    }
  }
  return ops.gather(ops.reshape(vectors, [-1]), indices(places, [count / size, size, size]));
}
