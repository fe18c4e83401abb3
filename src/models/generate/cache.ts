import { type Tensor, tensor } from "../../tensor/index.js";
import { cacheName } from "./decode-graph.js";

/** Tokens of one run of text see each other; padding and unused columns of the cache are of other segments. */
const TEXT = 1;
const PADDING = 0;
const UNUSED = -1;
/** In the place of the id of a token that is not of the prompt. */
const GENERATED = -1;
/** The cache grows in blocks, by a quarter at least. */
const BLOCK = 64;

/** Sizes of what is cached. */
export interface CacheSizes {
  readonly layers: number;
  readonly kvHeads: number;
  readonly headDim: number;
}

/** New tokens of every row. */
export type Columns = Readonly<Record<"ids" | "prompt" | "positions" | "segments", Tensor>>;

/**
 * Shorter rows are padded on the left, so that every row's last token is in the last column. `begun` of each are its prompt;
 * default: all.
 */
export function leftPadded(
  rows: readonly (readonly number[])[],
  begun: readonly number[] = rows.map((ids) => ids.length),
): Columns {
  const length = Math.max(...rows.map((ids) => ids.length));
  const shape = [rows.length, length];
  const padded = (lists: readonly (readonly number[])[], by: number) =>
    lists.flatMap((list) => [...new Array<number>(length - list.length).fill(by), ...list]);
  const places = rows.flatMap((ids) => Array.from({ length }, (_, at) => at - (length - ids.length)));
  const prompts = rows.map((ids, row) => ids.map((id, at) => (at < Number(begun[row]) ? id : GENERATED)));
  return {
    ids: tensor("int64", shape, padded(rows, 0)),
    prompt: tensor("int64", shape, padded(prompts, GENERATED)),
    positions: tensor(
      "int64",
      shape,
      places.map((at) => Math.max(at, 0)),
    ),
    segments: tensor(
      "int32",
      shape,
      places.map((at) => (at < 0 ? PADDING : TEXT)),
    ),
  };
}

export function oneColumn(ids: readonly number[], lengths: number[]): Columns {
  const shape = [ids.length, 1];
  const positions = ids.map((_, row) => lengths[row] as number);
  ids.forEach((_, row) => {
    lengths[row] = (lengths[row] as number) + 1;
  });
  const all = (value: number) => ids.map(() => value);
  return {
    ids: tensor("int64", shape, ids),
    prompt: tensor("int64", shape, all(GENERATED)),
    positions: tensor("int64", shape, positions),
    segments: tensor("int32", shape, all(TEXT)),
  };
}

export interface Cache {
  feeds(): Record<string, Tensor>;
  append(columns: Columns, results: Readonly<Record<string, Tensor>>): void;
}

/**
 * Keys and values in arrays of our own with room to spare, fed without a copy: a step moves only the new columns, where
 * returning the whole cache from every run would copy all of it. Columns not yet used are of a segment of their own.
 */
export function createCache({ kvHeads, headDim, layers }: CacheSizes, batch: number): Cache {
  const names = Array.from({ length: layers }, (_, at) => [
    cacheName(at, "key"),
    cacheName(at, "value"),
  ]).flat();
  let used = 0;
  // One unused column rather than none: not every backend takes tensors without elements.
  let capacity = 1;
  let blocks = new Map(names.map((name) => [name, new Float32Array(batch * kvHeads * headDim)]));
  let positions = new BigInt64Array(batch);
  let prompts = new BigInt64Array(batch);
  let segments = new Int32Array(batch).fill(UNUSED);

  const grow = (needed: number) => {
    const larger = Math.ceil(Math.max(needed, capacity * 1.25) / BLOCK) * BLOCK;
    blocks = new Map(
      [...blocks].map(([name, old]) => {
        const fresh = new Float32Array(batch * kvHeads * larger * headDim);
        copyRows(old, fresh, {
          rows: batch * kvHeads,
          width: headDim,
          from: capacity,
          to: larger,
          at: 0,
          count: used,
        });
        return [name, fresh] as const;
      }),
    );
    const [oldPositions, oldPrompts, oldSegments] = [positions, prompts, segments];
    positions = new BigInt64Array(batch * larger);
    prompts = new BigInt64Array(batch * larger);
    segments = new Int32Array(batch * larger).fill(UNUSED);
    for (let row = 0; row < batch; row++) {
      const start = row * capacity;
      positions.set(oldPositions.subarray(start, start + used), row * larger);
      prompts.set(oldPrompts.subarray(start, start + used), row * larger);
      segments.set(oldSegments.subarray(start, start + used), row * larger);
    }
    capacity = larger;
  };

  return {
    feeds() {
      const shape = [batch, kvHeads, capacity, headDim];
      const given = [...blocks].map(([name, data]) => [name, { dtype: "float32", shape, data }] as const);
      const sides: Record<string, Tensor> = {
        "past.positions": { dtype: "int64", shape: [batch, capacity], data: positions },
        "past.prompt": { dtype: "int64", shape: [batch, capacity], data: prompts },
        "past.segments": { dtype: "int32", shape: [batch, capacity], data: segments },
      };
      return { ...Object.fromEntries(given), ...sides };
    },
    append(columns, results) {
      const count = columns.ids.shape[1] as number;
      if (used + count > capacity) grow(used + count);
      for (const [name, block] of blocks) {
        const fresh = results[`new.${name}`]?.data as Float32Array;
        const part = { rows: batch * kvHeads, width: headDim, from: count, to: capacity, at: used, count };
        copyRows(fresh, block, part);
      }
      for (let row = 0; row < batch; row++) {
        const source = row * count;
        const target = row * capacity + used;
        positions.set((columns.positions.data as BigInt64Array).subarray(source, source + count), target);
        prompts.set((columns.prompt.data as BigInt64Array).subarray(source, source + count), target);
        segments.set((columns.segments.data as Int32Array).subarray(source, source + count), target);
      }
      used += count;
    },
  };
}

interface RowCopy {
  readonly rows: number;
  readonly width: number;
  /** Columns of a row of the source and of the target. */
  readonly from: number;
  readonly to: number;
  /** First column in the target. */
  readonly at: number;
  readonly count: number;
}

function copyRows(source: Float32Array, target: Float32Array, part: RowCopy): void {
  const { rows, width, from, to, at, count } = part;
  for (let row = 0; row < rows; row++) {
    const start = row * from * width;
    target.set(source.subarray(start, start + count * width), (row * to + at) * width);
  }
}

/** Views of the rows of a matrix. */
export function rowsOf(logits: Tensor): Float32Array[] {
  const [rows, width] = logits.shape as [number, number];
  const data = logits.data as Float32Array;
  return Array.from({ length: rows }, (_, row) => data.subarray(row * width, (row + 1) * width));
}
