import { z } from "zod";
import type { TokenizedExample } from "../../data/index.js";
import { TunesmithError } from "../../errors/index.js";
import { input, ops, type Value } from "../../graph/index.js";
import type { CausalLm } from "../../models/index.js";
import { tensor } from "../../tensor/index.js";
import { hashWords } from "../hash.js";
import {
  checkedPlan,
  collateRows,
  endlessOrder,
  epochOrder,
  GROUP_WEIGHTS,
  groupBatch,
  type RowPlan,
  rowFeeds,
  rowInputs,
  rowLogProbs,
  rowPass,
  rowSums,
  rowWords,
  tokenMask,
} from "../language-rows.js";
import type { LayOptions, LossGraph, Objective, StepBatch, StepShape } from "../objective.js";
import { settingsOf } from "./options.js";
import type { FeedbackExample } from "./pairs.js";

/** Options of `kto` as data. */
export const ktoOptions = z.strictObject({
  beta: z.number().positive().default(0.1).describe("weight of the distance to the reference"),
  desirableWeight: z.number().positive().default(1).describe("what a good answer counts"),
  undesirableWeight: z.number().positive().default(1).describe("what a bad answer counts"),
});

export interface KtoOptions extends RowPlan, z.input<typeof ktoOptions> {
  readonly train: readonly FeedbackExample[];
  readonly validation?: readonly FeedbackExample[] | undefined;
  /** The model that answers are compared under; it is frozen. */
  readonly reference: CausalLm;
  /** Rows of logits that exist at one time. Default: as many as keep them under 16 MB, at least 16. */
  readonly chunkRows?: number | undefined;
}

const DESIRABLE = "desirable";
const OTHER = "other/";

/**
 * Kahneman-Tversky optimisation (arXiv 2402.01306): learns from single answers with a verdict. With r = log π/ref of an answer
 * and z = max(0, mean of r over prompts with another prompt's answer), the loss is w·(1 − σ(β(r − z))) of good answers and
 * w·(1 − σ(β(z − r))) of bad ones. No gradient flows through z, which is of one micro-batch.
 *
 * Throws `config-invalid` for batches of one, which have no other prompt's answer.
 */
export function kto(model: CausalLm, options: KtoOptions): Objective<CausalLm> {
  const { train, validation = [] } = options;
  const settings = settingsOf("kto", ktoOptions, options);
  if (options.batchSize < 2 || train.length === 1 || validation.length === 1) {
    throw new TunesmithError("config-invalid", "kto compares answers of several prompts in a batch", {
      fix: "give a batchSize of at least 2, and at least two rows",
    });
  }
  const rows = train.map(({ answer }) => [answer]);
  const plan = checkedPlan(model, rows, options, "training data");
  checkedPlan(
    model,
    validation.map(({ answer }) => [answer]),
    options,
    "validation data",
  );
  return {
    name: "kto",
    model,
    identity: {
      batchSize: plan.batchSize,
      lengths: [...plan.lengths],
      answers: train.length,
      dataHash: hashWords(function* () {
        yield* rowWords(rows);
        for (const { desirable } of train) yield desirable ? 1 : 0;
      }),
      ...settings,
    },
    lossGraph: (shape, how) => lossGraph(model, options, settings, shape, how),
    *batches(from, seed) {
      for (const { items, state } of endlessOrder(train.length, plan.batchSize, from, seed))
        yield ktoBatch(train, items, plan, state);
    },
    ...(validation.length > 0
      ? {
          *validation() {
            for (const { items, state } of epochOrder(validation.length, plan.batchSize, 0, undefined))
              yield ktoBatch(validation, items, plan, state);
          },
        }
      : {}),
  };
}

/** Answers, and beside them each prompt with the next one's answer. */
function ktoBatch(
  all: readonly FeedbackExample[],
  items: readonly number[],
  plan: RowPlan,
  state: StepBatch["state"],
): StepBatch {
  const answers = all.map(({ answer }) => [answer]);
  const own = groupBatch(answers, items, plan, state);
  const longest = plan.lengths.at(-1) as number;
  // A batch of one at the end of an epoch borrows the answer of the row after it in the data.
  const next = (at: number) =>
    items.length > 1 ? items[(at + 1) % items.length] : ((items[at] as number) + 1) % all.length;
  const mixed = items.map((item, at) =>
    otherAnswer(
      (all[item] as FeedbackExample).answer,
      (all[next(at) as number] as FeedbackExample).answer,
      longest,
    ),
  );
  const other = collateRows(mixed, plan, plan.batchSize);
  const verdicts = Float32Array.from({ length: plan.batchSize }, (_, at) =>
    all[items[at] ?? -1]?.desirable ? 1 : 0,
  );
  return {
    ...own,
    shape: { ...own.shape, other: other.inputIds.shape[1] as number },
    feeds: {
      ...own.feeds,
      ...rowFeeds(other, OTHER),
      [DESIRABLE]: tensor("float32", [plan.batchSize], verdicts),
    },
  };
}

/** A prompt with another row's answer, cut to what a row holds. */
function otherAnswer(prompt: TokenizedExample, answer: TokenizedExample, most: number): TokenizedExample {
  const [cut, from] = [prompt.lossMask.indexOf(1), answer.lossMask.indexOf(1)];
  const ids = [...prompt.ids.subarray(0, cut), ...answer.ids.subarray(from)].slice(0, most);
  const mask = [...prompt.lossMask.subarray(0, cut), ...answer.lossMask.subarray(from)].slice(0, most);
  return { ids: Int32Array.from(ids), lossMask: Uint8Array.from(mask) };
}

function lossGraph(
  model: CausalLm,
  { reference, chunkRows: own }: KtoOptions,
  { beta, desirableWeight, undesirableWeight }: z.output<typeof ktoOptions>,
  shape: StepShape,
  how: LayOptions,
): LossGraph {
  const inputs = rowInputs(shape);
  const others = rowInputs({ batch: shape.batch as number, length: shape.other as number }, OTHER);
  const still = { training: false };
  const passes = {
    policy: rowPass(model, inputs, how),
    reference: rowPass(reference, inputs, still),
    policyOther: rowPass(model, others, still),
    referenceOther: rowPass(reference, others, still),
  };
  const sums = (lm: CausalLm, pass: keyof typeof passes, rows: typeof inputs) =>
    rowSums(rowLogProbs(lm, passes[pass], rows, how.chunkRows ?? own));
  const rewards = ops.sub(
    sums(model, "policy", inputs),
    ops.stopGradient(sums(reference, "reference", inputs)),
  );
  const weights = input(GROUP_WEIGHTS, "float32", [shape.batch as number]);
  const otherRewards = ops.sub(sums(model, "policyOther", others), sums(reference, "referenceOther", others));
  const divergence = ops.stopGradient(
    ops.max(ops.div(total(ops.mul(otherRewards, weights)), ops.max(total(weights), 1)), 0),
  );
  const good = input(DESIRABLE, "float32", [shape.batch as number]);
  const distance = ops.mul(ops.sub(rewards, divergence), beta);
  const gains = ops.mul(ops.sigmoid(ops.neg(distance)), desirableWeight);
  const losses = ops.mul(ops.sigmoid(distance), undesirableWeight);
  const each = ops.add(ops.mul(good, gains), ops.mul(ops.sub(ops.scalar(1), good), losses));
  return {
    loss: total(ops.mul(each, weights)),
    outputs: { rewards },
    passes: Object.values(passes),
    mask: tokenMask(inputs),
  };
}

const total = (x: Value): Value => ops.reduceSum(x, undefined, false);
