import {
  type BatchState,
  batches,
  collate,
  type LoadedBatch,
  type Pack,
  planBatches,
} from "../data/index.js";
import type { CausalLm } from "../models/index.js";
import { type BalancedOrder, balancedOrder, type TaskBalance } from "./balanced-order.js";
import { hashWords } from "./hash.js";
import { flatTargets, rowFeeds, rowInputs, rowPass, rowWords, tokenMask } from "./language-rows.js";
import { crossEntropy, crossEntropyForward } from "./losses/cross-entropy.js";
import { rowsPerChunk } from "./losses/head.js";
import type { LayOptions, LossGraph, Objective, ScoreKeeper, StepBatch, StepShape } from "./objective.js";
import { checkPacks, checkTrained, knownPadId } from "./packable.js";

export interface NextTokenOptions {
  readonly train?: readonly Pack[];
  readonly validation?: readonly Pack[] | undefined;
  /** Rows per micro-batch. */
  readonly batchSize: number;
  /** Row lengths; one compiled session each. */
  readonly lengths: readonly number[];
  readonly padId: number;
  /** Tasks of `train`: every batch then holds equally many rows of each. Default: rows in any order. */
  readonly balance?: TaskBalance | undefined;
  /** Rows of logits that exist at one time. Default: as many as keep them under 16 MB, at least 16. */
  readonly chunkRows?: number | undefined;
}

/**
 * Next-token prediction over packed rows: the mean cross-entropy of every token that is trained.
 *
 * Throws `data-invalid` for rows the model cannot read, `data-empty` when no token is trained.
 *
 * @example
 * ```ts
 * import type { Pack } from "tunesmith/data";
 * import type { CausalLm } from "tunesmith/models";
 * import { adamw, fit, nextToken } from "tunesmith/training";
 * export const tune = (model: CausalLm, train: readonly Pack[]) =>
 *   fit(nextToken(model, { train, batchSize: 4, lengths: [128], padId: 0 }), { steps: 10, optimizer: adamw({ lr: 1e-3 }) });
 * ```
 */
export function nextToken(model: CausalLm, options: NextTokenOptions): Objective<CausalLm> {
  const { train = [], validation = [], batchSize, lengths, balance } = options;
  const padId = knownPadId(model, options.padId);
  const plan = { batchSize, lengths, padId };
  checkRows(model, train, plan, "training data");
  // What is wrong with the held-out rows would otherwise show after the training.
  checkRows(model, validation, plan, "validation data");
  const balanced = balance && balancedOrder(balance, { batchSize, rows: train.length });
  return {
    name: "next-token",
    model,
    identity: {
      batchSize,
      lengths: [...lengths],
      packs: train.length,
      tokens: train.reduce((sum, pack) => sum + pack.tokens, 0),
      dataHash: hashOf(train),
      ...(balanced ? { tasks: [...balanced.names] } : {}),
    },
    lossGraph: (shape, how) => lossGraph(model, shape, options.chunkRows, how),
    *batches(from: BatchState, seed: number) {
      if (balanced) return yield* balancedBatches(train, balanced, plan, from, seed);
      const position = { epoch: from.epoch, startStep: from.step, endEpoch: Number.POSITIVE_INFINITY };
      for (const batch of batches(train, { ...plan, seed, ...position })) yield nextTokenBatch(batch);
    },
    ...(validation.length > 0 ? { validation: () => nextTokenBatches(validation, plan) } : {}),
    scores: perplexityOf,
  };
}

function checkRows(
  model: CausalLm,
  packs: readonly Pack[],
  plan: Pick<NextTokenOptions, "batchSize" | "lengths">,
  what: string,
): void {
  if (packs.length === 0) return;
  checkPacks(model, packs);
  planBatches(packs, plan);
  checkTrained(packs, what);
}

/** Batches of equally many rows of each task, at the length that holds their longest. */
function* balancedBatches(
  packs: readonly Pack[],
  order: BalancedOrder,
  { lengths, padId }: Pick<NextTokenOptions, "lengths" | "padId">,
  from: BatchState,
  seed: number,
): Generator<StepBatch> {
  for (const { items, state } of order.batches(from, seed)) {
    const members = items.map((at) => packs[at] as Pack);
    const longest = Math.max(...members.map(({ tokens }) => tokens));
    const length = lengths.find((size) => size >= longest) as number;
    const batch = nextTokenBatch({
      ...collate(members, { batch: order.rows, length, padId }),
      ...{ length, packs: items, state },
    });
    yield { ...batch, feeds: { ...batch.feeds, ...order.feeds() } };
  }
}

/** One pass over rows in their order, for evaluation. */
export function* nextTokenBatches(
  packs: readonly Pack[],
  plan: { readonly batchSize: number; readonly lengths: readonly number[]; readonly padId: number },
): Generator<StepBatch> {
  for (const batch of batches(packs, { ...plan, shuffle: false }))
    if (batch.targets > 0) yield nextTokenBatch(batch);
}

/** A batch of packed rows under the names of the loss graph's inputs. */
export function nextTokenBatch(batch: LoadedBatch): StepBatch {
  return {
    shape: { batch: batch.inputIds.shape[0] as number, length: batch.length },
    feeds: rowFeeds(batch),
    count: batch.targets,
    size: batch.tokens,
    state: batch.state,
    rows: batch.packs,
  };
}

function lossGraph(
  model: CausalLm,
  shape: StepShape,
  chunkRows: number | undefined,
  { training, recompute, chunkRows: wanted }: LayOptions,
): LossGraph {
  const inputs = rowInputs(shape);
  const outputs = rowPass(model, inputs, { training, recompute: recompute ?? false });
  const rows = (shape.batch as number) * (shape.length as number);
  const parts = {
    hidden: outputs.hidden,
    logits: outputs.logits,
    ...flatTargets(inputs),
    chunkRows: rowsPerChunk(rows, model.sizes.vocabSize, wanted ?? chunkRows),
  };
  const loss = training ? crossEntropy(parts) : crossEntropyForward(parts);
  return { loss, passes: [outputs], mask: tokenMask(inputs) };
}

/** Perplexity is a function of the mean loss, which the evaluator knows. */
const perplexityOf = (): ScoreKeeper => {
  let [sum, count] = [0, 0];
  return {
    add({ loss }, batch) {
      sum += Number(loss?.data[0]);
      count += batch.count;
    },
    result: () => ({ perplexity: Math.exp(sum / count) }),
  };
};

/** A hash over the tokens of all rows and what of them is trained, in their order. */
const hashOf = (packs: readonly Pack[]): string =>
  hashWords(() => rowWords(packs.map(({ examples }) => examples)));
