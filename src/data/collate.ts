import { TunesmithError } from "../errors/index.js";
import { type Tensor, tensor } from "../tensor/index.js";
import type { Pack } from "./pack.js";

/** Marks a position without a target. */
export const IGNORED_LABEL = -1;

/** A batch of packed rows as tensors, `[B, T]` each. */
export interface Batch {
  /** int32 token ids; padding holds `padId`. */
  readonly inputIds: Tensor;
  /** int32: the next token of the same example where it is trained, `IGNORED_LABEL` elsewhere. */
  readonly labels: Tensor;
  /** float32: 1 where there is a label, else 0. */
  readonly lossWeights: Tensor;
  /** int32: counts from 0 in each example. */
  readonly positionIds: Tensor;
  /** int32: 1, 2, ... for the examples of a row, 0 for padding. */
  readonly segmentIds: Tensor;
  /** Tokens that are not padding. */
  readonly tokens: number;
  /** Labels that are trained. */
  readonly targets: number;
}

export interface CollateOptions {
  /** Rows; missing ones are all padding. Default: as many as there are packs. */
  readonly batch?: number;
  /** Tokens per row. */
  readonly length: number;
  readonly padId: number;
}

/**
 * Lays packs out as the tensors of one training step.
 *
 * Throws `shape-mismatch` when there are more packs than rows or a pack is longer than a row.
 *
 * @example
 * ```ts
 * import { collate, packExamples } from "tunesmith/data";
 * const example = { ids: Int32Array.of(5, 6, 7), lossMask: Uint8Array.of(0, 1, 1) };
 * const batch = collate(packExamples([example], { length: 4 }), { length: 4, padId: 0 });
 * console.log(batch.labels.data); // 6, 7, -1, -1
 * ```
 */
export function collate(packs: readonly Pack[], options: CollateOptions): Batch {
  const { batch = packs.length, length, padId } = options;
  const longest = packs.reduce((most, pack) => Math.max(most, pack.tokens), 0);
  if (packs.length > batch || longest > length) {
    throw new TunesmithError(
      "shape-mismatch",
      `${packs.length} packs of up to ${longest} tokens do not fit a batch of [${batch}, ${length}]`,
      { fix: "give a larger batch or length" },
    );
  }
  const shape = [batch, length];
  const size = batch * length;
  const inputIds = new Int32Array(size).fill(padId);
  const labels = new Int32Array(size).fill(IGNORED_LABEL);
  const lossWeights = new Float32Array(size);
  const positionIds = new Int32Array(size);
  const segmentIds = new Int32Array(size);
  let targets = 0;
  packs.forEach((pack, row) => {
    let at = row * length;
    pack.examples.forEach(({ ids, lossMask }, segment) => {
      inputIds.set(ids, at);
      segmentIds.fill(segment + 1, at, at + ids.length);
      for (let index = 0; index < ids.length; index++) {
        positionIds[at + index] = index;
        if (lossMask[index + 1] !== 1) continue;
        labels[at + index] = ids[index + 1] as number;
        lossWeights[at + index] = 1;
        targets++;
      }
      at += ids.length;
    });
  });
  return {
    inputIds: tensor("int32", shape, inputIds),
    labels: tensor("int32", shape, labels),
    lossWeights: tensor("float32", shape, lossWeights),
    positionIds: tensor("int32", shape, positionIds),
    segmentIds: tensor("int32", shape, segmentIds),
    tokens: packs.reduce((sum, pack) => sum + pack.tokens, 0),
    targets,
  };
}
