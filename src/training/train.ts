import type { Pack } from "../data/index.js";
import { TunesmithError } from "../errors/index.js";
import type { CausalLm } from "../models/index.js";
import { fit } from "./fit.js";
import type { FitOptions, TrainResult } from "./fit-types.js";
import { type NextTokenOptions, nextToken } from "./next-token.js";

export interface TrainOptions extends NextTokenOptions, FitOptions {
  readonly train: readonly Pack[];
}

/**
 * Trains a causal language model's parameters in place on packed rows: `fit` with the objective `nextToken`. Deterministic by
 * seed; a run that was killed continues from its last checkpoint with the same numbers, bit for bit.
 *
 * Throws `zero-update` (nothing to train, or nothing changes), `loss-not-finite`, `checkpoint-mismatch`, `data-empty`,
 * `cancelled`.
 *
 * @example
 * ```ts
 * import { packExamples } from "tunesmith/data";
 * import type { CausalLm } from "tunesmith/models";
 * import { adamw, train } from "tunesmith/training";
 * export async function tune(model: CausalLm, ids: Int32Array) {
 *   const examples = [{ ids, lossMask: new Uint8Array(ids.length).fill(1, 1) }];
 *   const packs = packExamples(examples, { length: 128 });
 *   return train(model, { train: packs, batchSize: 1, lengths: [128], steps: 10, padId: 0, optimizer: adamw({ lr: 1e-3 }) });
 * }
 * ```
 */
export async function train(model: CausalLm, options: TrainOptions): Promise<TrainResult> {
  if (options.train.length === 0) {
    throw new TunesmithError("data-empty", "there is nothing to train on", {
      fix: "check the dataset's report",
    });
  }
  return fit(nextToken(model, options), options);
}
