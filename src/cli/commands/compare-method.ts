import type { z } from "zod";
import { TunesmithError } from "../../errors/index.js";
import { methodNamed, trainableCount } from "../../methods/index.js";
import { createEvaluator, type Evaluation, fit } from "../../training/index.js";
import type { Context } from "../command.js";
import { resolveOptions } from "../config/resolve.js";
import { type compareSchema, runSchema } from "../config/schema.js";
import { sessionOf } from "../work.js";
import { stepOptions } from "./fit-options.js";
import { planRun } from "./memory.js";
import { type OptionsFor, type Prepared, prepareRun, type RunConfig } from "./prepare-run.js";

export type CompareConfig = z.output<typeof compareSchema>;

/** What one method cost and brought. */
export interface ComparedMethod {
  readonly method: string;
  readonly parameters: number;
  /** Highest learning rate of the run. */
  readonly lr: number;
  readonly steps: number;
  readonly lossBefore: number;
  readonly lossAfter: number;
  /** Scores of the task after training. */
  readonly scores: Readonly<Record<string, number>>;
  /** Median of the steps after the first two; of fewer, the last. */
  readonly stepSeconds: number;
  /** Bytes the run takes by its memory plan, beside what the process holds. */
  readonly memoryBytes: number;
  /** Loading, evaluation and training. */
  readonly seconds: number;
  /** Why it was left out. */
  readonly failed?: string;
}

/** Steps that are timed to know how many fit in a budget. */
const TIMED_STEPS = 6;

/** One method with its own defaults under the settings all share. A method that cannot is named, not fatal. */
export async function measureMethod(
  method: string,
  config: CompareConfig,
  context: Context,
): Promise<ComparedMethod> {
  const quiet: Context = {
    ...context,
    ui: { ...context.ui, say: () => {}, note: () => {}, result: () => {} },
  };
  const started = performance.now();
  const elapsed = () => (performance.now() - started) / 1000;
  try {
    const run = runOf(method, config);
    const prepared = await prepareWithin(run, config, quiet);
    const before = await evaluated(run, prepared);
    const { memoryBytes, times, evaluation } = await trained(run, prepared, context);
    const after = evaluation ?? (await evaluated(run, prepared));
    const { optimizer, steps, model } = prepared;
    const rates = Array.from({ length: steps }, (_, at) => optimizer.learningRate(at + 1));
    return {
      ...{ method, steps, memoryBytes },
      parameters: trainableCount(model),
      lr: rates.reduce((most, rate) => Math.max(most, rate), 0),
      lossBefore: before.loss,
      lossAfter: after.loss,
      scores: after.scores,
      stepSeconds: medianOf(times),
      seconds: elapsed(),
    };
  } catch (error) {
    if (!(error instanceof TunesmithError) || error.code === "cancelled") throw error;
    const nothing = Number.NaN;
    return {
      ...{ method, parameters: 0, steps: 0, lr: nothing, lossBefore: nothing, lossAfter: nothing },
      ...{ scores: {}, stepSeconds: nothing, memoryBytes: nothing, seconds: elapsed() },
      failed: `${error.code}: ${error.message}`,
    };
  }
}

/** The run of one method. */
function runOf(method: string, config: CompareConfig): RunConfig {
  const { methods: _, out: __, options, budgetParameters: ___, budgetSeconds: ____, ...shared } = config;
  const own = options[method] ?? {};
  const given = { flags: { ...shared, ...own, method, out: "unused", track: false }, file: undefined };
  return resolveOptions(runSchema(method), given) as RunConfig;
}

async function prepareWithin(
  run: RunConfig,
  { budgetParameters, budgetSeconds }: CompareConfig,
  context: Context,
): Promise<Prepared> {
  const { within } = methodNamed(run.method);
  const optionsFor: OptionsFor = (base, options) =>
    budgetParameters === undefined || !within
      ? options
      : { ...within(base, options, budgetParameters).options };
  if (budgetSeconds === undefined) return prepareRun(run, context, optionsFor);
  const trial = await prepareRun({ ...run, steps: TIMED_STEPS }, context, optionsFor);
  const { times } = await trained(run, trial, context);
  const steps = Math.max(1, Math.floor(budgetSeconds / medianOf(times)));
  return prepareRun({ ...run, steps }, context, optionsFor);
}

async function trained(run: RunConfig, prepared: Prepared, { signal }: Context) {
  const { objective, optimizer, steps } = prepared;
  const memoryBytes = planRun(run, prepared).total;
  const times: number[] = [];
  let last = performance.now();
  const { evaluation } = await fit(objective, {
    ...stepOptions(run),
    ...{ steps, optimizer, signal },
    onEvent(event) {
      if (event.type !== "step") return;
      times.push((performance.now() - last) / 1000);
      last = performance.now();
    },
  });
  return { memoryBytes, times, evaluation };
}

async function evaluated(run: RunConfig, { objective }: Prepared): Promise<Evaluation> {
  const evaluator = createEvaluator(objective, { session: sessionOf(run) });
  try {
    return await evaluator.run(objective.validation?.() ?? []);
  } finally {
    await evaluator.close();
  }
}

function medianOf(times: readonly number[]): number {
  const later = times.slice(Math.min(2, times.length - 1)).sort((a, b) => a - b);
  return later[Math.floor(later.length / 2)] ?? Number.NaN;
}
