import type { Graph } from "../../graph/index.js";
import { createSession, type SessionOptions } from "../../runtime/index.js";
import { type Tensor, tensor } from "../../tensor/index.js";
import { parameterFeeds } from "../feeds.js";
import type { CausalLm } from "../types.js";
import { cacheName, decodeGraph, wholeGraph } from "./decode-graph.js";

/** Tokens of one run of text see each other; padding and unused columns of the cache are of other segments. */
const TEXT = 1;
const PADDING = 0;
const UNUSED = -1;
/** The cache grows in blocks, by a quarter at least. */
const BLOCK = 64;

/** Decodes rows of ids step by step. */
export interface Decoder {
  /** Starts rows of any lengths afresh. */
  start(prompts: readonly (readonly number[])[]): Sequence;
  close(): Promise<void>;
}

/** Rows being decoded together, with the keys and values of all their tokens so far. */
export interface Sequence {
  /** Reads the prompts; gives the logits after each, one `[vocab]` view per row. */
  read(): Promise<Float32Array[]>;
  /** Appends one token to every row; gives the logits after it. */
  step(ids: readonly number[]): Promise<Float32Array[]>;
}

/**
 * Compiles the decoding graph of a model. Weights stay where they are; sessions over one file share them. A model
 * that takes no cache reads each row anew at every step.
 */
export async function createDecoder(model: CausalLm, options: SessionOptions = {}): Promise<Decoder> {
  const graph = decodeGraph(model);
  return graph ? cachedDecoder(model, graph, options) : wholeDecoder(model, options);
}

async function cachedDecoder(model: CausalLm, graph: Graph, options: SessionOptions): Promise<Decoder> {
  const { run, close } = await runner(model, graph, options);
  return {
    start(prompts) {
      const cache = createCache(model, prompts.length);
      const advance = async (columns: Columns) => {
        const results = await run({ ...columns, ...cache.feeds() });
        cache.append(columns, results);
        return rowsOf(results.logits as Tensor);
      };
      const lengths = prompts.map((ids) => ids.length);
      return {
        read: () => advance(leftPadded(prompts)),
        step: (ids) => advance(oneColumn(ids, lengths)),
      };
    },
    close,
  };
}

async function wholeDecoder(model: CausalLm, options: SessionOptions): Promise<Decoder> {
  const { run, close } = await runner(model, wholeGraph(model), options);
  return {
    start(prompts) {
      const rows = prompts.map((ids) => [...ids]);
      const read = async () => {
        const logits: Float32Array[] = [];
        // One by one: such models may count positions by column, which padding would shift.
        for (const row of rows) logits.push(...rowsOf((await run(leftPadded([row]))).logits as Tensor));
        return logits;
      };
      return {
        read,
        step(ids) {
          for (const [at, row] of rows.entries()) row.push(ids[at] as number);
          return read();
        },
      };
    },
    close,
  };
}

/** A session that is fed what it reads of the given tensors, and the model's parameters. */
async function runner(model: CausalLm, graph: Graph, options: SessionOptions) {
  const session = await createSession(graph, options);
  const read = new Set(session.inputNames);
  return {
    run(given: Readonly<Record<string, Tensor>>) {
      const feeds = Object.fromEntries(Object.entries(given).filter(([name]) => read.has(name)));
      // Adapters are read at every step, so that a change shows at once.
      return session.run({ ...feeds, ...parameterFeeds(graph, model.parameters) });
    },
    close: () => session.release(),
  };
}

type Columns = Readonly<Record<"ids" | "positions" | "segments", Tensor>>;

/** Shorter prompts are padded on the left, so that every row's last token is in the last column. */
function leftPadded(prompts: readonly (readonly number[])[]): Columns {
  const length = Math.max(...prompts.map((ids) => ids.length));
  const shape = [prompts.length, length];
  const places = prompts.flatMap((ids) => Array.from({ length }, (_, at) => at - (length - ids.length)));
  const tokens = prompts.flatMap((ids) => [...new Array<number>(length - ids.length).fill(0), ...ids]);
  return {
    ids: tensor("int64", shape, tokens),
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

function oneColumn(ids: readonly number[], lengths: number[]): Columns {
  const shape = [ids.length, 1];
  const positions = ids.map((_, row) => lengths[row] as number);
  ids.forEach((_, row) => {
    lengths[row] = (lengths[row] as number) + 1;
  });
  return {
    ids: tensor("int64", shape, ids),
    positions: tensor("int64", shape, positions),
    segments: tensor(
      "int32",
      shape,
      ids.map(() => TEXT),
    ),
  };
}

interface Cache {
  feeds(): Record<string, Tensor>;
  append(columns: Columns, results: Readonly<Record<string, Tensor>>): void;
}

/**
 * Keys and values in arrays of our own with room to spare, fed without a copy: a step moves only the new columns, where
 * returning the whole cache from every run would copy all of it. Columns not yet used are of a segment of their own.
 */
function createCache(model: CausalLm, batch: number): Cache {
  const { kvHeads, headDim, layers } = model.sizes;
  const names = Array.from({ length: layers }, (_, at) => [
    cacheName(at, "key"),
    cacheName(at, "value"),
  ]).flat();
  let used = 0;
  // One unused column rather than none: not every backend takes tensors without elements.
  let capacity = 1;
  let blocks = new Map(names.map((name) => [name, new Float32Array(batch * kvHeads * headDim)]));
  let positions = new BigInt64Array(batch);
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
    const oldPositions = positions;
    const oldSegments = segments;
    positions = new BigInt64Array(batch * larger);
    segments = new Int32Array(batch * larger).fill(UNUSED);
    for (let row = 0; row < batch; row++) {
      const start = row * capacity;
      positions.set(oldPositions.subarray(start, start + used), row * larger);
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

function rowsOf(logits: Tensor): Float32Array[] {
  const [rows, width] = logits.shape as [number, number];
  const data = logits.data as Float32Array;
  return Array.from({ length: rows }, (_, row) => data.subarray(row * width, (row + 1) * width));
}
