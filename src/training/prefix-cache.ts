import { openScratch, type Scratch } from "#io";
import { type Tensor, tensor } from "../tensor/index.js";

/** Rows of a batch whose activations are wanted. */
export interface WantedRows {
  /** Names of the rows, the same every epoch; rows of the batch beyond them are padding. */
  readonly names: readonly string[];
  /** Rows of the batch, padding included. */
  readonly batch: number;
  /** Shape of the activations: their first axis is the rows', or the rows' tokens one after the other. */
  readonly shape: readonly number[];
}

/** Activations at the first trained block, kept between epochs. */
export interface PrefixCache {
  /** The activations of a batch: from the cache when all its rows are there, else computed and kept. */
  rows(wanted: WantedRows, compute: () => Promise<Tensor>): Promise<Tensor>;
  /** Batches answered without computing. */
  readonly hits: number;
  /** Bytes held in memory, and on disk. */
  readonly bytes: number;
  readonly diskBytes: number;
  /** Gives the disk space back. */
  close(): Promise<void>;
}

/** Most bytes to hold in each place. */
export interface PrefixCacheBudget {
  readonly memory: number;
  readonly disk: number;
}

/** A row of numbers that is kept: itself, or where it lies on disk. */
type Row = Float32Array | { readonly offset: number; readonly length: number };

/** A cache of rows in memory, then in a temporary file; rows that fit neither are computed anew each epoch. */
export function prefixCache(budget: PrefixCacheBudget): PrefixCache {
  const kept = new Map<string, Row>();
  let [bytes, diskBytes, hits] = [0, 0, 0];
  let scratch: Promise<Scratch> | undefined;
  const disk = () => {
    scratch ??= openScratch();
    return scratch;
  };
  const keep = async (key: string, row: Float32Array) => {
    if (kept.has(key)) return;
    if (bytes + row.byteLength <= budget.memory) {
      kept.set(key, row.slice());
      bytes += row.byteLength;
    } else if (diskBytes + row.byteLength <= budget.disk) {
      const offset = diskBytes;
      diskBytes += row.byteLength;
      await (await disk()).write(offset, new Uint8Array(row.buffer, row.byteOffset, row.byteLength));
      kept.set(key, { offset, length: row.length });
    }
  };
  const copyInto = async (target: Float32Array, row: Row) => {
    if (row instanceof Float32Array) target.set(row);
    else {
      const stored = await (await disk()).read(row.offset, target.byteLength);
      new Uint8Array(target.buffer, target.byteOffset, target.byteLength).set(stored);
    }
  };
  return {
    get hits() {
      return hits;
    },
    get bytes() {
      return bytes;
    },
    get diskBytes() {
      return diskBytes;
    },
    async rows({ names, batch, shape }, compute) {
      const size = shape.reduce((a, b) => a * b, 1) / batch;
      const known = names.flatMap((name) => kept.get(name) ?? []);
      if (known.length > 0 && known.length === names.length) {
        hits++;
        const whole = new Float32Array(batch * size);
        await Promise.all(known.map((row, at) => copyInto(whole.subarray(at * size, (at + 1) * size), row)));
        return tensor("float32", shape, whole);
      }
      const prefix = await compute();
      for (const [at, name] of names.entries())
        await keep(name, (prefix.data as Float32Array).subarray(at * size, (at + 1) * size));
      return prefix;
    },
    async close() {
      await (await scratch)?.close();
      scratch = undefined;
    },
  };
}
