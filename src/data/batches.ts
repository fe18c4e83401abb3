import { TunesmithError } from "../errors/index.js";
import { rng } from "../runtime/random/index.js";
import { type Batch, collate } from "./collate.js";
import type { Pack } from "./pack.js";

/** Where an iteration stands; plain JSON. */
export interface BatchState {
  readonly epoch: number;
  /** Batches of this epoch that were given out. */
  readonly step: number;
}

export interface BatchPlanOptions {
  /** Rows per batch. The last batch of a length may hold fewer packs; its other rows are padding. */
  readonly batchSize: number;
  /** Row lengths, ascending; each pack takes the first it fits. Few lengths mean few compiled sessions. */
  readonly lengths: readonly number[];
  /** Default 0. */
  readonly seed?: number;
  /** A new order each epoch. Default true; false keeps the given order. */
  readonly shuffle?: boolean;
}

export interface BatchOptions extends BatchPlanOptions {
  readonly padId: number;
  /** Default 0. */
  readonly epoch?: number;
  /** Batches of that epoch to skip. Default 0. */
  readonly startStep?: number;
  /** Ends before this epoch. Default: one epoch. */
  readonly endEpoch?: number;
}

/** The packs of one batch, by position, and the length of their rows. */
export interface PlannedBatch {
  readonly length: number;
  readonly packs: readonly number[];
}

/** A batch, what it holds, and the state to continue after it. */
export interface LoadedBatch extends Batch, PlannedBatch {
  readonly state: BatchState;
}

/**
 * The batches of one epoch in their order, which depends on the packs, the options and the epoch only.
 *
 * Throws `config-invalid` for a bad batch size or lengths that are not ascending, `data-invalid` for a pack that fits
 * no length.
 */
export function planBatches(packs: readonly Pack[], options: BatchPlanOptions, epoch = 0): PlannedBatch[] {
  const { batchSize, lengths, seed = 0, shuffle = true } = options;
  const ascending = lengths.every((length, index) => length > (lengths[index - 1] ?? 0));
  if (!Number.isInteger(batchSize) || batchSize < 1 || lengths.length === 0 || !ascending) {
    throw new TunesmithError(
      "config-invalid",
      `batches of ${batchSize} rows with lengths [${lengths.join(", ")}] are not possible`,
      { fix: "batchSize is at least 1, lengths ascend from at least 1" },
    );
  }
  const buckets = lengths.map((): number[] => []);
  packs.forEach((pack, index) => {
    const bucket = lengths.findIndex((length) => pack.tokens <= length);
    if (bucket < 0) {
      throw new TunesmithError(
        "data-invalid",
        `pack ${index} has ${pack.tokens} tokens, more than the greatest length ${lengths.at(-1)}`,
        { fix: "pack to a length among `lengths`" },
      );
    }
    buckets[bucket]?.push(index);
  });
  const batches: PlannedBatch[] = [];
  buckets.forEach((members, bucket) => {
    const length = lengths[bucket] as number;
    const order = shuffle
      ? Array.from(
          rng(seed, "batches", epoch, length).permutation(members.length),
          (at) => members[at] as number,
        )
      : members;
    for (let at = 0; at < order.length; at += batchSize) {
      batches.push({ length, packs: order.slice(at, at + batchSize) });
    }
  });
  if (!shuffle) return batches;
  const order = rng(seed, "batches", epoch).permutation(batches.length);
  return Array.from(order, (at) => batches[at] as PlannedBatch);
}

/**
 * Iterates over batches, epoch after epoch. To resume, pass the `state` of the last batch that was used as `epoch`
 * and `startStep`: what follows equals the uninterrupted iteration.
 *
 * Throws as `planBatches`; `data-empty` when there are no packs; `checkpoint-mismatch` when `startStep` lies beyond
 * the epoch, that is, the data changed.
 *
 * @example
 * ```ts
 * import { batches, packExamples } from "tunesmith/data";
 * const example = { ids: Int32Array.of(5, 6, 7), lossMask: Uint8Array.of(0, 1, 1) };
 * const packs = packExamples([example, example], { length: 4 });
 * for (const batch of batches(packs, { batchSize: 2, lengths: [4], padId: 0, seed: 1, endEpoch: 3 })) {
 *   console.log(batch.state, batch.inputIds.shape);
 * }
 * ```
 */
export function* batches(packs: readonly Pack[], options: BatchOptions): Generator<LoadedBatch> {
  const { epoch: firstEpoch = 0, startStep = 0, padId, batchSize } = options;
  const endEpoch = options.endEpoch ?? firstEpoch + 1;
  if (packs.length === 0) {
    throw new TunesmithError("data-empty", "there are no packs to make batches of", {
      fix: "check the dataset's report",
    });
  }
  for (let epoch = firstEpoch; epoch < endEpoch; epoch++) {
    const plan = planBatches(packs, options, epoch);
    const start = epoch === firstEpoch ? startStep : 0;
    if (start > plan.length) {
      throw new TunesmithError(
        "checkpoint-mismatch",
        `step ${start} lies beyond epoch ${epoch}, which has ${plan.length} batches`,
        { fix: "resume with the data and options that the run was started with" },
      );
    }
    for (let step = start; step < plan.length; step++) {
      const planned = plan[step] as PlannedBatch;
      const members = planned.packs.map((index) => packs[index] as Pack);
      const batch = collate(members, { batch: batchSize, length: planned.length, padId });
      yield { ...batch, ...planned, state: { epoch, step: step + 1 } };
    }
  }
}

/**
 * Chooses at most `maxShapes` row lengths, multiples of `multiple`, that pad the packs least (exact, by dynamic
 * programming over the distinct lengths).
 *
 * @example
 * ```ts
 * import { chooseLengths } from "tunesmith/data";
 * console.log(chooseLengths([10, 12, 60, 64], { maxShapes: 2, multiple: 8 })); // [16, 64]
 * ```
 */
export function chooseLengths(
  lengths: readonly number[],
  options: { readonly maxShapes?: number; readonly multiple?: number } = {},
): number[] {
  const { maxShapes = 4, multiple = 16 } = options;
  const counts = new Map<number, number>();
  for (const length of lengths) {
    const rounded = Math.max(1, Math.ceil(length / multiple)) * multiple;
    counts.set(rounded, (counts.get(rounded) ?? 0) + 1);
  }
  const sizes = [...counts.keys()].sort((a, b) => a - b);
  const upTo = [0];
  for (const size of sizes) upTo.push((upTo.at(-1) ?? 0) + (counts.get(size) ?? 0));
  // best[end]: least tokens for the first `end` sizes, and the lengths chosen for them.
  let best = sizes.map((size, index) => ({ cost: size * (upTo[index + 1] as number), chosen: [size] }));
  for (let shapes = 2; shapes <= maxShapes; shapes++) {
    best = best.map((current, end) => {
      let winner = current;
      for (let split = 0; split < end; split++) {
        const before = best[split] as (typeof best)[number];
        const size = sizes[end] as number;
        const cost = before.cost + size * ((upTo[end + 1] as number) - (upTo[split + 1] as number));
        if (cost < winner.cost) winner = { cost, chosen: [...before.chosen, size] };
      }
      return winner;
    });
  }
  return best.at(-1)?.chosen ?? [];
}
