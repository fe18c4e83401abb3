import type { Pack } from "../data/index.js";
import { type CausalLm, parameterFeeds } from "../models/index.js";
import { createSession, type SessionOptions } from "../runtime/index.js";
import { evaluationGraph } from "./graph.js";
import { nextToken } from "./next-token.js";
import type { Objective, StepBatch } from "./objective.js";
import { checkTrained } from "./packable.js";
import { closeAll, onlyRead, perShape, scalarOf } from "./stepper.js";

export interface Evaluation {
  /** Mean loss per item: for language models cross-entropy per trained token, in nats. */
  readonly loss: number;
  /** Items evaluated. */
  readonly count: number;
  /** Scores of the objective by name: `perplexity`, `accuracy`. */
  readonly scores: Readonly<Record<string, number>>;
}

/** Evaluates an objective's model again and again with the same compiled sessions. */
export interface Evaluator {
  run(batches: Iterable<StepBatch> | AsyncIterable<StepBatch>): Promise<Evaluation>;
  close(): Promise<void>;
}

/**
 * Loss and scores of an objective over batches. Each batch is weighted by its items, so the figures do not depend on the
 * batch size.
 */
export function createEvaluator(
  objective: Objective,
  options: { readonly session?: SessionOptions | undefined } = {},
): Evaluator {
  const compiled = perShape(async (shape) => {
    const step = evaluationGraph(objective, shape);
    return { step, session: await createSession(step.graph, options.session) };
  });
  return {
    async run(batches) {
      const keeper = objective.scores?.();
      let [sum, count] = [0, 0];
      for await (const batch of batches) {
        const { step, session } = await compiled.get(batch.shape);
        const feeds = { ...parameterFeeds(step.graph, objective.model.parameters), ...batch.feeds };
        const outputs = await session.run(onlyRead(step.graph.inputs, feeds));
        sum += scalarOf(outputs.loss);
        count += batch.count;
        keeper?.add(outputs, batch);
      }
      return { loss: sum / count, count, scores: keeper?.result() ?? {} };
    },
    async close() {
      await closeAll((await compiled.clear()).map(({ session }) => session.release));
    },
  };
}

export interface EvaluationOptions {
  readonly batchSize: number;
  readonly lengths: readonly number[];
  readonly padId: number;
  readonly session?: SessionOptions;
}

/** An evaluation of a language model. */
export interface LmEvaluation extends Evaluation {
  /** exp(loss) */
  readonly perplexity: number;
}

/**
 * Loss and perplexity of a causal language model on packed examples. Throws `data-empty` when no token of them is
 * trained, `data-invalid` for tokens the model does not know.
 */
export async function evaluateOnce(
  model: CausalLm,
  packs: readonly Pack[],
  options: EvaluationOptions,
): Promise<LmEvaluation> {
  checkTrained(packs, "evaluation data");
  const objective = nextToken(model, { ...options, validation: packs });
  const evaluator = createEvaluator(objective, options);
  try {
    const evaluation = await evaluator.run(objective.validation?.() ?? []);
    return { ...evaluation, perplexity: Math.exp(evaluation.loss) };
  } finally {
    await evaluator.close();
  }
}
