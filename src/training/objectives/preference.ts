import type { z } from "zod";
import { TunesmithError } from "../../errors/index.js";
import { input, ops, type Value } from "../../graph/index.js";
import type { CausalLm, LmOutputs } from "../../models/index.js";
import { tensor } from "../../tensor/index.js";
import type { PlainData } from "../exact-json.js";
import { hashWords } from "../hash.js";
import {
  checkedPlan,
  endlessOrder,
  epochOrder,
  GROUP_WEIGHTS,
  groupBatch,
  type RowGroup,
  type RowPlan,
  rowInputs,
  rowLogProbs,
  rowPass,
  rowSums,
  rowWords,
  tokenMask,
} from "../language-rows.js";
import type { LayOptions, LossGraph, Objective, ScoreKeeper, StepBatch, StepShape } from "../objective.js";
import { settingsOf } from "./options.js";
import type { PairExample } from "./pairs.js";
import {
  cpoLoss,
  cpoOptions,
  dpoLoss,
  dpoOptions,
  orpoLoss,
  orpoOptions,
  type PairScores,
  type ReferenceScores,
  simpoLoss,
  simpoOptions,
} from "./preference-losses.js";

/** Pairs of answers, and how they are laid out in batches. */
export interface PreferenceData extends RowPlan {
  readonly train: readonly PairExample[];
  readonly validation?: readonly PairExample[] | undefined;
  /** Rows of logits that exist at one time. Default: as many as keep them under 16 MB, at least 16. */
  readonly chunkRows?: number | undefined;
}

export interface DpoOptions extends PreferenceData, z.input<typeof dpoOptions> {
  /**
   * The model that the answers are compared under; it is frozen. Needed unless the examples carry its log-probabilities
   * (`withReference`).
   */
  readonly reference?: CausalLm | undefined;
}

interface Preference {
  readonly name: string;
  readonly data: PreferenceData;
  readonly settings: Readonly<Record<string, PlainData>>;
  /** Per pair; `reference` is there when `needsReference`. */
  readonly loss: (pair: PairScores, reference: ReferenceScores | undefined) => Value;
  readonly needsReference?: { readonly model: CausalLm | undefined };
  /** The loss compares means over tokens, and so do the scores of an evaluation. */
  readonly perToken?: boolean;
}

/**
 * Direct preference optimisation and its variants: learns from pairs of answers which is better. The reference model runs in
 * the same graph, without gradient, unless the pairs carry its scores.
 *
 * Throws `config-invalid` for options or a missing reference, `data-invalid` for rows the model cannot read.
 *
 * @example
 * ```ts
 * import { type AdaptedLm, setActive } from "tunesmith/methods";
 * import { adamw, dpo, fit, type PairExample } from "tunesmith/training";
 * export const tune = (model: AdaptedLm, train: readonly PairExample[]) => {
 *   const reference = setActive(model, []); // the base, over the same inputs
 *   const objective = dpo(model, { train, reference, batchSize: 2, lengths: [256], padId: 0, beta: 0.1 });
 *   return fit(objective, { steps: 100, optimizer: adamw({ lr: 1e-5 }) });
 * };
 * ```
 */
export function dpo(model: CausalLm, options: DpoOptions): Objective<CausalLm> {
  const { reference, ...data } = options;
  const settings = settingsOf("dpo", dpoOptions, options);
  const all = [...data.train, ...(data.validation ?? [])];
  const scored = all.length > 0 && all.every((pair) => pair.reference !== undefined);
  if (!scored && !reference) {
    throw new TunesmithError("config-invalid", "dpo has no reference model", {
      fix: "give `reference`, for an adapter setActive(model, []), or pairs from withReference",
    });
  }
  return preference(model, {
    name: "dpo",
    data,
    settings,
    loss: (pair, other) => dpoLoss(pair, other as ReferenceScores, settings),
    needsReference: { model: scored ? undefined : reference },
    perToken: settings.loss === "ipo",
  });
}

/** ORPO (arXiv 2403.07691): the preferred answer is learnt, and made likelier than the other, without a reference model. */
export function orpo(
  model: CausalLm,
  options: PreferenceData & z.input<typeof orpoOptions>,
): Objective<CausalLm> {
  const settings = settingsOf("orpo", orpoOptions, options);
  return preference(model, {
    name: "orpo",
    data: options,
    settings,
    loss: (pair) => orpoLoss(pair, settings),
    perToken: true,
  });
}

/** SimPO (arXiv 2405.14734): mean log-probabilities as rewards, with a margin and without a reference model. */
export function simpo(
  model: CausalLm,
  options: PreferenceData & z.input<typeof simpoOptions>,
): Objective<CausalLm> {
  const settings = settingsOf("simpo", simpoOptions, options);
  return preference(model, {
    name: "simpo",
    data: options,
    settings,
    loss: (pair) => simpoLoss(pair, settings),
    perToken: true,
  });
}

/** CPO (arXiv 2401.08417): as DPO without a reference, with the cross-entropy of the preferred answer. */
export function cpo(
  model: CausalLm,
  options: PreferenceData & z.input<typeof cpoOptions>,
): Objective<CausalLm> {
  const settings = settingsOf("cpo", cpoOptions, options);
  return preference(model, { name: "cpo", data: options, settings, loss: (pair) => cpoLoss(pair, settings) });
}

const groupsOf = (pairs: readonly PairExample[]): RowGroup[] =>
  pairs.map(({ chosen, rejected }) => [chosen, rejected]);

function preference(model: CausalLm, given: Preference): Objective<CausalLm> {
  const { name, data, settings } = given;
  const { train, validation = [] } = data;
  const [rows, held] = [groupsOf(train), groupsOf(validation)];
  const plan = checkedPlan(model, rows, data, "training data");
  checkedPlan(model, held, data, "validation data");
  return {
    name,
    model,
    identity: {
      batchSize: plan.batchSize,
      lengths: [...plan.lengths],
      pairs: train.length,
      dataHash: hashWords(() => rowWords(rows)),
      ...settings,
    },
    lossGraph: (shape, how) => lossGraph(model, given, shape, how),
    *batches(from, seed) {
      for (const { items, state } of endlessOrder(train.length, plan.batchSize, from, seed))
        yield withScores(groupBatch(rows, items, plan, state), train, plan.batchSize);
    },
    ...(validation.length > 0
      ? {
          *validation() {
            for (const { items, state } of epochOrder(validation.length, plan.batchSize, 0, undefined))
              yield withScores(groupBatch(held, items, plan, state), validation, plan.batchSize);
          },
        }
      : {}),
    scores: marginScores,
  };
}

const REFERENCE = "reference_logps";

/** The batch with the reference's scores, where the pairs carry them. */
function withScores(
  batch: StepBatch & { readonly groups: readonly number[] },
  pairs: readonly PairExample[],
  batchSize: number,
): StepBatch {
  if (!pairs.every(({ reference }) => reference)) return batch;
  const scores = new Float32Array(2 * batchSize);
  batch.groups.forEach((group, at) => {
    const { chosen = 0, rejected = 0 } = pairs[group]?.reference ?? {};
    scores.set([chosen, rejected], 2 * at);
  });
  return { ...batch, feeds: { ...batch.feeds, [REFERENCE]: tensor("float32", [batchSize, 2], scores) } };
}

/** The column of a matrix. */
const column = (x: Value, at: number): Value => ops.squeeze(ops.slice(x, 1, at, at + 1), 1);

function lossGraph(
  model: CausalLm,
  { loss, needsReference, data, perToken }: Preference,
  shape: StepShape,
  how: LayOptions,
): LossGraph {
  const inputs = rowInputs(shape);
  const pairs = (shape.batch as number) / 2;
  const pass = rowPass(model, inputs, how);
  const chunkRows = how.chunkRows ?? data.chunkRows;
  const sums = ops.reshape(rowSums(rowLogProbs(model, pass, inputs, chunkRows)), [pairs, 2]);
  const lengths = ops.reshape(rowSums(inputs.weights), [pairs, 2]);
  const scores: PairScores = {
    chosen: column(sums, 0),
    rejected: column(sums, 1),
    chosenLength: column(lengths, 0),
    rejectedLength: column(lengths, 1),
  };
  const passes: LmOutputs[] = [pass];
  let other: ReferenceScores | undefined;
  if (needsReference) {
    let known = input(REFERENCE, "float32", [pairs, 2]);
    if (needsReference.model) {
      const frozen = rowPass(needsReference.model, inputs, { training: false });
      passes.push(frozen);
      const logs = rowLogProbs(needsReference.model, frozen, inputs, chunkRows);
      known = ops.stopGradient(ops.reshape(rowSums(logs), [pairs, 2]));
    }
    other = { chosen: column(known, 0), rejected: column(known, 1) };
  }
  const weights = input(GROUP_WEIGHTS, "float32", [pairs]);
  const ratio = (side: "chosen" | "rejected") => {
    const sum = other ? ops.sub(scores[side], other[side]) : scores[side];
    return perToken ? ops.div(sum, ops.max(scores[`${side}Length`], 1)) : sum;
  };
  return {
    loss: ops.reduceSum(ops.mul(loss(scores, other), weights), undefined, false),
    outputs: { margins: ops.sub(ratio("chosen"), ratio("rejected")) },
    passes,
    mask: tokenMask(inputs),
  };
}

/** How often, and by how much, the preferred answer is ahead in what the loss compares. */
export const marginScores = (): ScoreKeeper => {
  let [ahead, sum, count] = [0, 0, 0];
  return {
    add({ margins }, batch) {
      for (const margin of Array.from(margins?.data as Float32Array).slice(0, batch.count)) {
        ahead += margin > 0 ? 1 : 0;
        sum += margin;
        count++;
      }
    },
    result: () => ({ preferenceAccuracy: ahead / count, margin: sum / count }),
  };
};
