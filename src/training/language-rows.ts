import { type Batch, type BatchState, collate, type TokenizedExample } from "../data/index.js";
import { TunesmithError } from "../errors/index.js";
import { input, ops, type Value } from "../graph/index.js";
import { type CausalLm, type LmOutputs, tokenMask } from "../models/index.js";
import { rng } from "../runtime/random/index.js";
import { type Tensor, tensor } from "../tensor/index.js";
import { rowsPerChunk } from "./losses/head.js";
import { labelLogProbs } from "./losses/log-probs.js";
import type { LayOptions, StepBatch, StepShape } from "./objective.js";
import { checkPacks, checkTrained, knownPadId } from "./packable.js";
import { recomputeBlocks } from "./recompute.js";

export { tokenMask };

/** A batch of rows under the names of the graph's inputs. */
export const rowFeeds = (batch: Batch, prefix = ""): Record<string, Tensor> => ({
  [`${prefix}ids`]: batch.inputIds,
  [`${prefix}positions`]: batch.positionIds,
  [`${prefix}segments`]: batch.segmentIds,
  [`${prefix}labels`]: batch.labels,
  [`${prefix}weights`]: batch.lossWeights,
});

export type RowInputs = Record<"ids" | "positions" | "segments" | "labels" | "weights", Value>;

/** Inputs `[batch, length]`; labels are −1 where there is none, weights what each label counts. */
export function rowInputs({ batch, length }: StepShape, prefix = ""): RowInputs {
  const matrix = (name: string, dtype: "int32" | "float32") =>
    input(`${prefix}${name}`, dtype, [batch as number, length as number]);
  return {
    ids: matrix("ids", "int32"),
    positions: matrix("positions", "int32"),
    segments: matrix("segments", "int32"),
    labels: matrix("labels", "int32"),
    weights: matrix("weights", "float32"),
  };
}

const long = (value: Value) => ops.cast(value, "int64");

/** A forward pass over rows. */
export function rowPass(
  model: CausalLm,
  { ids, positions, segments }: RowInputs,
  { training, recompute }: LayOptions,
): LmOutputs {
  const built = model.build({ ids: long(ids), positions: long(positions), segments, training });
  return training && recompute ? recomputeBlocks(built, recompute === true ? undefined : recompute) : built;
}

/** Labels int64 and weights of rows, one per token. */
export const flatTargets = ({ labels, weights }: RowInputs) => {
  const tokens = (labels.shape[0] as number) * (labels.shape[1] as number);
  return { labels: ops.reshape(long(labels), [tokens]), weights: ops.reshape(weights, [tokens]) };
};

/** Log-probabilities of a pass's labels, `[rows, length]`, 0 where there is none. */
export function rowLogProbs(
  model: CausalLm,
  { hidden, logits }: LmOutputs,
  inputs: RowInputs,
  chunkRows?: number,
): Value {
  const { labels, weights } = flatTargets(inputs);
  const tokens = labels.shape[0] as number;
  const chunk = rowsPerChunk(tokens, model.sizes.vocabSize, chunkRows);
  const each = labelLogProbs({ hidden, logits, labels, chunkRows: chunk });
  return ops.reshape(ops.mul(each, weights), inputs.labels.shape);
}

/** Sum over the tokens of each row, `[rows]`. */
export const rowSums = (values: Value): Value => ops.reduceSum(values, [1], false);

/** The sizes and padding of batches of rows. */
export interface RowPlan {
  /** Groups per micro-batch: pairs, answers. */
  readonly batchSize: number;
  /** Row lengths, ascending; a batch takes the first that holds its longest row. One compiled session each. */
  readonly lengths: readonly number[];
  readonly padId: number;
}

/** Rows that belong together: an answer that was preferred and one that was not. */
export type RowGroup = readonly TokenizedExample[];

/** float32 `[batch]`: 1 for groups, 0 for what fills a batch up. */
export const GROUP_WEIGHTS = "group_weights";

/** Which groups a batch holds, in order. */
export interface GroupBatch extends StepBatch {
  readonly groups: readonly number[];
}

/** Rows as one batch: `[rows, length]`, those that are missing are padding. */
export function collateRows(
  rows: readonly TokenizedExample[],
  { lengths, padId }: Pick<RowPlan, "lengths" | "padId">,
  batch: number,
): Batch {
  const longest = Math.max(...rows.map(({ ids }) => ids.length));
  const length = lengths.find((size) => size >= longest);
  if (length === undefined) {
    throw new TunesmithError("data-invalid", `a row has ${longest} tokens, more than the longest length`, {
      fix: `tokenize with a maxLength of at most ${lengths.at(-1)}`,
    });
  }
  const packs = rows.map((row, at) => ({ indices: [at], examples: [row], tokens: row.ids.length }));
  return collate(packs, { batch, length, padId });
}

/** One batch of groups; rows of a group follow one another. */
export function groupBatch(
  all: readonly RowGroup[],
  groups: readonly number[],
  plan: RowPlan,
  state: BatchState,
): GroupBatch {
  const members = all[groups[0] as number]?.length ?? 1;
  const rows = groups.flatMap((at) => all[at] as RowGroup);
  const batch = collateRows(rows, plan, plan.batchSize * members);
  const weights = Float32Array.from({ length: plan.batchSize }, (_, at) => (at < groups.length ? 1 : 0));
  return {
    groups,
    shape: { batch: plan.batchSize * members, length: batch.inputIds.shape[1] as number },
    feeds: { ...rowFeeds(batch), [GROUP_WEIGHTS]: tensor("float32", [plan.batchSize], weights) },
    count: groups.length,
    size: batch.tokens,
    state,
    rows: groups.flatMap((at) => Array.from({ length: members }, (_, member) => `${at}/${member}`)),
  };
}

/** The batches of an epoch from a position on, as lists of items; without a seed in the order of the data. */
export function* epochOrder(
  count: number,
  batchSize: number,
  epoch: number,
  seed: number | undefined,
  start = 0,
): Generator<{ readonly items: readonly number[]; readonly state: BatchState }> {
  const order =
    seed === undefined
      ? Array.from({ length: count }, (_, at) => at)
      : Array.from(rng(seed, "examples", epoch).permutation(count));
  for (let step = start; step * batchSize < count; step++) {
    yield {
      items: order.slice(step * batchSize, (step + 1) * batchSize),
      state: { epoch, step: step + 1 },
    };
  }
}

/** Epoch after epoch from a position on, without end. */
export function* endlessOrder(count: number, batchSize: number, from: BatchState, seed: number) {
  for (let { epoch, step } = from; ; epoch++, step = 0)
    yield* epochOrder(count, batchSize, epoch, seed, step);
}

/** Throws what is wrong with rows before anything is laid; gives the padding token that the model knows. */
export function checkedPlan<P extends RowPlan>(
  model: CausalLm,
  groups: readonly RowGroup[],
  plan: P,
  what: string,
): P {
  if (!Number.isInteger(plan.batchSize) || plan.batchSize < 1 || plan.lengths.length === 0) {
    throw new TunesmithError(
      "config-invalid",
      `batches of ${plan.batchSize} with lengths [${plan.lengths}]`,
      {
        fix: "give a batchSize of at least 1 and at least one length",
      },
    );
  }
  const packs = groups.flatMap((group) => group.map((row) => ({ examples: [row] })));
  if (packs.length > 0) {
    checkPacks(model, packs);
    checkTrained(packs, what);
  }
  return { ...plan, padId: knownPadId(model, plan.padId) };
}

/** Numbers that tell groups of rows apart from others, for a hash. */
export function* rowWords(groups: readonly RowGroup[]): Generator<number> {
  for (const group of groups) {
    yield group.length;
    for (const { ids, lossMask } of group)
      for (let at = 0; at < ids.length; at++) yield 2 * (ids[at] as number) + (lossMask[at] as number);
  }
}
