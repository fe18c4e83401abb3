import { batches, type Pack } from "../data/index.js";
import { type CausalLm, parameterFeeds } from "../models/index.js";
import { createSession, type Session, type SessionOptions } from "../runtime/index.js";
import { evaluationGraph, type StepGraph } from "./graph.js";
import { checkPacks, checkTrained, knownPadId } from "./packable.js";
import { batchFeeds, closeAll, onlyRead, scalarOf, settled } from "./stepper.js";

export interface EvaluationOptions {
  readonly batchSize: number;
  readonly lengths: readonly number[];
  readonly padId: number;
  readonly session?: SessionOptions;
}

export interface Evaluation {
  /** Mean cross-entropy per trained token, in nats. */
  readonly loss: number;
  /** exp(loss) */
  readonly perplexity: number;
  readonly tokens: number;
}

/** Evaluates a model on packs again and again with the same compiled sessions. */
export interface Evaluator {
  run(packs: readonly Pack[]): Promise<Evaluation>;
  close(): Promise<void>;
}

/**
 * Loss and perplexity of a causal language model on packed examples. Each batch is averaged over its own trained tokens and
 * the batches are weighted by them, so the figure does not depend on the batch size.
 */
export function createEvaluator(model: CausalLm, options: EvaluationOptions): Evaluator {
  const compiled = new Map<number, Promise<{ step: StepGraph; session: Session }>>();
  const compile = async (length: number) => {
    const step = evaluationGraph(model, { batch: options.batchSize, length });
    return { step, session: await createSession(step.graph, options.session) };
  };
  return {
    async run(packs) {
      checkPacks(model, packs);
      checkTrained(packs, "evaluation data");
      let [sum, tokens] = [0, 0];
      const padId = knownPadId(model, options.padId);
      for (const batch of batches(packs, { ...options, padId, shuffle: false })) {
        if (batch.targets === 0) continue;
        const known = compiled.get(batch.length) ?? compile(batch.length);
        compiled.set(batch.length, known);
        const { step, session } = await known;
        const feeds = {
          ...batchFeeds(batch, batch.targets),
          ...parameterFeeds(step.graph, model.parameters),
        };
        const { loss } = await session.run(onlyRead(step, feeds));
        sum += scalarOf(loss) * batch.targets;
        tokens += batch.targets;
      }
      const mean = sum / tokens;
      return { loss: mean, perplexity: Math.exp(mean), tokens };
    },
    async close() {
      const ready = await settled(compiled);
      compiled.clear();
      await closeAll(ready.map(({ session }) => session.release));
    },
  };
}

/** As `createEvaluator`, for one evaluation. */
export async function evaluateOnce(
  model: CausalLm,
  packs: readonly Pack[],
  options: EvaluationOptions,
): Promise<Evaluation> {
  const evaluator = createEvaluator(model, options);
  try {
    return await evaluator.run(packs);
  } finally {
    await evaluator.close();
  }
}
