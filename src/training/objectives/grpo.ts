import { z } from "zod";
import type { BatchState, TokenizedExample } from "../../data/index.js";
import { TunesmithError } from "../../errors/index.js";
import { input, ops } from "../../graph/index.js";
import { type CausalLm, createGenerator, type LmOutputs, type TextGenerator } from "../../models/index.js";
import type { SessionOptions } from "../../runtime/index.js";
import { tensor } from "../../tensor/index.js";
import { hashWords } from "../hash.js";
import {
  checkedPlan,
  endlessOrder,
  GROUP_WEIGHTS,
  groupBatch,
  type RowPlan,
  rowInputs,
  rowLogProbs,
  rowPass,
  tokenMask,
} from "../language-rows.js";
import type { LayOptions, LossGraph, Objective, StepBatch, StepShape } from "../objective.js";
import { settingsOf } from "./options.js";
import { groupAdvantages, policyLoss } from "./policy-loss.js";
import { type RowScorer, rowScorer } from "./reference.js";

/** Options of `grpo` as data. */
export const grpoOptions = z.strictObject({
  groupSize: z.number().int().min(2).default(8).describe("answers to each prompt"),
  maxTokens: z.number().int().min(1).default(64).describe("most tokens of an answer"),
  temperature: z.number().positive().default(1).describe("of the sampling of answers"),
  advantage: z
    .enum(["group", "leave-one-out"])
    .default("group")
    .describe("group: GRPO, scaled by the deviation; leave-one-out: RLOO"),
  epsilon: z.number().positive().default(0.2).describe("how far the ratio to the old policy counts"),
  beta: z.number().min(0).default(0.04).describe("weight of the distance to the reference; 0: none"),
  iterations: z.number().int().min(1).default(1).describe("updates on the same answers"),
});

/** An answer that is to be judged. */
export interface Answer {
  readonly prompt: string;
  readonly text: string;
  /** Its tokens, the end token included where it came to one. */
  readonly ids: readonly number[];
  /** Which of the prompts it answers. */
  readonly index: number;
}

export interface GrpoOptions extends RowPlan, z.input<typeof grpoOptions> {
  readonly prompts: readonly string[];
  /** How good an answer is; any number. */
  readonly reward: (answer: Answer) => number | Promise<number>;
  /** Needed unless `beta` is 0. */
  readonly reference?: CausalLm | undefined;
  /** Called with each batch's answers and rewards. */
  readonly onAnswers?: (answers: readonly Answer[], rewards: readonly number[]) => void;
  readonly session?: SessionOptions | undefined;
  /** Rows of logits that exist at one time. Default: as many as keep them under 16 MB, at least 16. */
  readonly chunkRows?: number | undefined;
}

const ADVANTAGES = "advantages";
const OLD = "old_logps";

/**
 * Group relative policy optimisation (arXiv 2402.03300), or RLOO: the model answers prompts, a function of yours judges the
 * answers, and those that are better than others to the same prompt become likelier. `batchSize` counts prompts.
 *
 * Answers depend on the seed and the weights alone, so that a continued run is the same; with several `iterations` it
 * continues after the last of them only. Throws `config-invalid` for options, `tokenizer-unsupported`, `data-empty`.
 *
 * @example
 * ```ts
 * import { type AdaptedLm, setActive } from "tunesmith/methods";
 * import { adamw, fit, grpo } from "tunesmith/training";
 * export const shorter = (model: AdaptedLm, prompts: readonly string[]) => {
 *   const plan = { batchSize: 2, lengths: [128], padId: 0 };
 *   const reward = ({ text }: { text: string }) => -text.length;
 *   const objective = grpo(model, { ...plan, prompts, reward, reference: setActive(model, []), groupSize: 4 });
 *   return fit(objective, { steps: 50, optimizer: adamw({ lr: 1e-5 }) });
 * };
 * ```
 */
export function grpo(model: CausalLm, options: GrpoOptions): Objective<CausalLm> {
  const settings = settingsOf("grpo", grpoOptions, options);
  const { prompts, reference } = options;
  const { tokenizer } = model;
  if (!tokenizer) {
    throw new TunesmithError(
      "tokenizer-unsupported",
      "grpo writes and reads text: the model has no tokenizer",
      {
        fix: "put its tokenizer files beside the model",
      },
    );
  }
  if (prompts.length === 0) {
    throw new TunesmithError("data-empty", "there are no prompts", { fix: "give at least one" });
  }
  if (settings.beta > 0 && !reference) {
    throw new TunesmithError("config-invalid", "grpo has no reference model", {
      fix: "give `reference`, for an adapter setActive(model, []), or beta 0",
    });
  }
  const plan = checkedPlan(model, [], options, "prompts");
  return {
    name: settings.advantage === "group" ? "grpo" : "rloo",
    model,
    identity: {
      batchSize: plan.batchSize,
      lengths: [...plan.lengths],
      prompts: prompts.length,
      dataHash: hashWords(function* () {
        for (const prompt of prompts) yield* new TextEncoder().encode(`${prompt}\n`);
      }),
      ...settings,
    },
    lossGraph: (shape, how) => lossGraph(model, options, settings, shape, how),
    batches: (from, seed) => rollouts(model, { ...options, ...plan }, settings, from, seed),
  };
}

type Settings = z.output<typeof grpoOptions>;

async function* rollouts(
  model: CausalLm,
  options: GrpoOptions,
  settings: Settings,
  from: BatchState,
  seed: number,
): AsyncGenerator<StepBatch> {
  const { prompts, batchSize, session } = options;
  const { iterations } = settings;
  if (from.step % iterations !== 0) {
    throw new TunesmithError("config-invalid", "the checkpoint lies between updates on the same answers", {
      fix: `save every multiple of ${iterations} updates`,
    });
  }
  const generator = await createGenerator(model, session);
  const scorer = iterations > 1 ? rowScorer(model, options, { session }) : undefined;
  try {
    const start = { epoch: from.epoch, step: from.step / iterations };
    for (const { items, state } of endlessOrder(prompts.length, batchSize, start, seed)) {
      const stream = `${seed}/${state.epoch}/${state.step}`;
      const answered = await answersTo(model, generator, items, options, settings, stream);
      for (let pass = 1; pass <= iterations; pass++) {
        const step = (state.step - 1) * iterations + pass;
        yield await batchOf(answered, options, settings, scorer, { epoch: state.epoch, step });
      }
    }
  } finally {
    await generator.close();
    await scorer?.close();
  }
}

interface Answered {
  readonly rows: readonly TokenizedExample[];
  readonly advantages: readonly number[];
  /** Filled in by the first pass over the answers. */
  old: readonly Float32Array[] | undefined;
}

async function answersTo(
  model: CausalLm,
  generator: TextGenerator,
  items: readonly number[],
  { prompts, reward, onAnswers, lengths }: GrpoOptions,
  { groupSize, maxTokens, temperature, advantage }: Settings,
  seed: string,
): Promise<Answered> {
  const tokenizer = model.tokenizer as NonNullable<CausalLm["tokenizer"]>;
  const longest = lengths.at(-1) as number;
  const indices = items.flatMap((item) => new Array<number>(groupSize).fill(item));
  const asked = indices.map((index) => tokenizer.encode(prompts[index] as string));
  const room = longest - Math.max(...asked.map((ids) => ids.length));
  if (room < 1) {
    throw new TunesmithError("data-invalid", `a prompt fills a row of ${longest} tokens`, {
      fix: "give greater `lengths`, or shorter prompts",
    });
  }
  const generated = await generator.generateBatch(asked, {
    maxTokens: Math.min(maxTokens, room),
    temperature,
    seed,
  });
  const answers = generated.map(({ ids, text, stopReason }, at): Answer => {
    const ends = stopReason === "end" && tokenizer.eosId !== undefined && ids.length < room;
    const index = indices[at] as number;
    return {
      prompt: prompts[index] as string,
      text,
      ids: ends ? [...ids, tokenizer.eosId as number] : ids,
      index,
    };
  });
  const rewards = await Promise.all(answers.map(reward));
  onAnswers?.(answers, rewards);
  return {
    rows: answers.map(({ ids }, at) => joined(asked[at] as Int32Array, ids)),
    advantages: groupAdvantages(rewards, groupSize, advantage),
    old: undefined,
  };
}

const joined = (prompt: Int32Array, answer: readonly number[]): TokenizedExample => ({
  ids: Int32Array.of(...prompt, ...answer),
  lossMask: Uint8Array.of(...prompt.map(() => 0), ...answer.map(() => 1)),
});

async function batchOf(
  answered: Answered,
  plan: GrpoOptions,
  { groupSize }: Settings,
  scorer: RowScorer | undefined,
  state: BatchState,
): Promise<StepBatch> {
  const { rows, advantages } = answered;
  const size = plan.batchSize * groupSize;
  const groups = rows.map((row) => [row]);
  const { rows: _, ...batch } = groupBatch(groups, [...groups.keys()], { ...plan, batchSize: size }, state);
  const gains = new Float32Array(size);
  gains.set(advantages);
  const feeds = { ...batch.feeds, [ADVANTAGES]: tensor("float32", [size], gains) };
  if (!scorer) return { ...batch, feeds };
  answered.old ??= await scorer.run(rows);
  const length = batch.shape.length as number;
  const old = new Float32Array(size * length);
  answered.old.forEach((logs, row) => void old.set(logs.subarray(0, length), row * length));
  return { ...batch, feeds: { ...feeds, [OLD]: tensor("float32", [size, length], old) } };
}

function lossGraph(
  model: CausalLm,
  { reference, chunkRows: own }: GrpoOptions,
  { epsilon, beta, iterations }: Settings,
  shape: StepShape,
  how: LayOptions,
): LossGraph {
  const inputs = rowInputs(shape);
  const [rows, length] = [shape.batch as number, shape.length as number];
  const pass = rowPass(model, inputs, how);
  const chunkRows = how.chunkRows ?? own;
  const logs = rowLogProbs(model, pass, inputs, chunkRows);
  const passes: LmOutputs[] = [pass];
  let given: ReturnType<typeof ops.stopGradient> | undefined;
  if (beta > 0 && reference) {
    const frozen = rowPass(reference, inputs, { training: false });
    passes.push(frozen);
    given = ops.stopGradient(rowLogProbs(reference, frozen, inputs, chunkRows));
  }
  const each = policyLoss(
    {
      logs,
      // One update per answer: the old policy is this one.
      old: iterations > 1 ? input(OLD, "float32", [rows, length]) : ops.stopGradient(logs),
      reference: given,
      weights: inputs.weights,
      advantages: input(ADVANTAGES, "float32", [rows]),
    },
    { epsilon, beta },
  );
  const counted = ops.mul(each, input(GROUP_WEIGHTS, "float32", [rows]));
  return {
    loss: ops.reduceSum(counted, undefined, false),
    passes,
    mask: tokenMask(inputs),
  };
}
