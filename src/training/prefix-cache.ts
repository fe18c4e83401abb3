import type { LoadedBatch } from "../data/index.js";
import { type Tensor, tensor } from "../tensor/index.js";

/** Activations of packed rows at the first trained block, kept between epochs. */
export interface PrefixCache {
  /** The activations `[tokens, hidden]` of a batch: from the cache when all its rows are there, else computed and kept. */
  rows(
    batch: LoadedBatch,
    compute: (feeds: Record<string, Tensor>) => Promise<Record<string, Tensor>>,
  ): Promise<Tensor>;
  /** Batches answered without computing. */
  readonly hits: number;
  readonly bytes: number;
}

/** A cache in memory of at most `budget` bytes; rows that no longer fit are computed anew each epoch. */
export function prefixCache(budget: number): PrefixCache {
  const kept = new Map<string, Float32Array>();
  let bytes = 0;
  let hits = 0;
  return {
    get hits() {
      return hits;
    },
    get bytes() {
      return bytes;
    },
    async rows(batch, compute) {
      const keys = batch.packs.map((pack) => `${batch.length}/${pack}`);
      const known = keys.map((key) => kept.get(key));
      const width = known[0] && known[0].length / batch.length;
      const size = batch.inputIds.data.length;
      if (width !== undefined && known.every((row) => row !== undefined)) {
        hits++;
        const whole = new Float32Array(size * width);
        for (const [index, row] of known.entries()) whole.set(row ?? [], index * batch.length * width);
        return tensor("float32", [size, width], whole);
      }
      const feeds = { ids: batch.inputIds, positions: batch.positionIds, segments: batch.segmentIds };
      const prefix = (await compute(feeds)).prefix as Tensor;
      const rowLength = prefix.data.length / (size / batch.length);
      keys.forEach((key, index) => {
        const row = (prefix.data as Float32Array).slice(index * rowLength, (index + 1) * rowLength);
        if (kept.has(key) || bytes + row.byteLength > budget) return;
        kept.set(key, row);
        bytes += row.byteLength;
      });
      return prefix;
    },
  };
}
