import type { z } from "zod";
import { writeFileAtomic } from "#io";
import { TunesmithError } from "../../errors/index.js";
import { methodNames } from "../../methods/index.js";
import { createEvaluator, type Evaluation, fit } from "../../training/index.js";
import type { Context } from "../command.js";
import { resolveOptions } from "../config/resolve.js";
import { type compareSchema, runSchema } from "../config/schema.js";
import { paretoChart } from "../tracking/pareto.js";
import { columns } from "../tracking/text.js";
import { formatCount } from "../ui.js";
import { sessionOf, throwIfAborted } from "../work.js";
import { stepOptions } from "./fit-options.js";
import { prepareRun, type RunConfig, trainableCount } from "./prepare-run.js";

type Config = z.output<typeof compareSchema>;

/** What one method cost and brought. */
export interface ComparedMethod {
  readonly method: string;
  readonly parameters: number;
  /** Learning rate used. */
  readonly lr: number;
  readonly lossBefore: number;
  readonly lossAfter: number;
  /** Scores of the task after training. */
  readonly scores: Readonly<Record<string, number>>;
  /** Median of the steps after the first two; of fewer, the last. */
  readonly stepSeconds: number;
  readonly seconds: number;
  /** Why it was left out. */
  readonly failed?: string;
}

/** Trains several methods in the same way and reports what each cost and brought. */
export async function runCompare(config: Config, context: Context): Promise<void> {
  const { ui } = context;
  checkMethods(config);
  const results: ComparedMethod[] = [];
  const bar = ui.progress("comparing", config.methods.length);
  try {
    for (const [at, method] of config.methods.entries()) {
      throwIfAborted(context.signal);
      bar.update(at, method);
      results.push(await measured(method, config, context));
    }
  } finally {
    bar.stop();
  }
  const score = scoreName(results);
  ui.say(
    columns(
      head(score),
      results.map((result) => line(result, score)),
    ),
  );
  if (config.out !== undefined) {
    await writeFileAtomic(`${config.out}.json`, `${JSON.stringify({ config, results }, null, 2)}\n`);
    await writeFileAtomic(`${config.out}.svg`, paretoChart(results, score));
    ui.say(`wrote ${config.out}.json and ${config.out}.svg`);
  }
  ui.result({ results });
}

function checkMethods({ methods, options, validation, validationShare }: Config): void {
  const unknown = methods.find((name) => !methodNames.includes(name));
  if (unknown !== undefined) {
    throw new TunesmithError("config-invalid", `--methods: unknown method '${unknown}'`, {
      fix: `known: ${methodNames.join(", ")}`,
    });
  }
  const twice = methods.find((name, at) => methods.indexOf(name) !== at);
  if (twice !== undefined) {
    throw new TunesmithError("config-invalid", `--methods names '${twice}' twice`, { fix: "name it once" });
  }
  const idle = Object.keys(options).find((name) => !methods.includes(name));
  if (idle !== undefined) {
    throw new TunesmithError("config-invalid", `--options: '${idle}' is not compared`, {
      fix: `give options of ${methods.join(", ")}, or name it in --methods`,
    });
  }
  if (validation === undefined && validationShare === 0) {
    throw new TunesmithError("config-invalid", "there is no validation data to compare on", {
      fix: "give --validation, or a --validation-share above 0",
    });
  }
}

/** One method with its own defaults under the settings all share. A method that cannot is named, not fatal. */
async function measured(method: string, config: Config, context: Context): Promise<ComparedMethod> {
  const { methods: _, out: __, options, ...shared } = config;
  const own = options[method] ?? {};
  const quiet: Context = {
    ...context,
    ui: { ...context.ui, say: () => {}, note: () => {}, result: () => {} },
  };
  const started = performance.now();
  try {
    const given = { flags: { ...shared, ...own, method, out: "unused", track: false }, file: undefined };
    const run = resolveOptions(runSchema(method), given) as RunConfig;
    const prepared = await prepareRun(run, quiet);
    const { objective, optimizer, steps, model } = prepared;
    const evaluate = async (): Promise<Evaluation> => {
      const evaluator = createEvaluator(objective, { session: sessionOf(run) });
      try {
        return await evaluator.run(objective.validation?.() ?? []);
      } finally {
        await evaluator.close();
      }
    };
    const before = await evaluate();
    const times: number[] = [];
    let last = performance.now();
    const result = await fit(objective, {
      ...stepOptions(run),
      steps,
      optimizer,
      signal: context.signal,
      onEvent(event) {
        if (event.type !== "step") return;
        times.push((performance.now() - last) / 1000);
        last = performance.now();
      },
    });
    const after = result.evaluation ?? (await evaluate());
    const later = times.slice(Math.min(2, times.length - 1)).sort((a, b) => a - b);
    return {
      method,
      parameters: trainableCount(model),
      lr: optimizer.learningRate(Math.max(1, Math.round(steps / 2))),
      lossBefore: before.loss,
      lossAfter: after.loss,
      scores: after.scores,
      stepSeconds: later[Math.floor(later.length / 2)] ?? Number.NaN,
      seconds: (performance.now() - started) / 1000,
    };
  } catch (error) {
    if (!(error instanceof TunesmithError) || error.code === "cancelled") throw error;
    const nothing = Number.NaN;
    return {
      method,
      ...{ parameters: 0, lr: nothing, lossBefore: nothing, lossAfter: nothing, scores: {} },
      ...{ stepSeconds: nothing, seconds: (performance.now() - started) / 1000 },
      failed: `${error.code}: ${error.message}`,
    };
  }
}

/** The score that is compared: accuracy and its like where there is one, else the loss. */
const scoreName = (results: readonly ComparedMethod[]): string | undefined =>
  ["accuracy", "f1", "perplexity"].find((name) => results.some(({ scores }) => name in scores));

const head = (score: string | undefined): string[] => [
  "method",
  "parameters",
  "loss before",
  "after",
  ...(score ? [score] : []),
  "step",
];

function line(result: ComparedMethod, score: string | undefined): string[] {
  const { method, parameters, lossBefore, lossAfter, scores, stepSeconds, failed } = result;
  if (failed !== undefined) return [method, "-", failed];
  const own = score ? [(scores[score] ?? Number.NaN).toPrecision(4)] : [];
  return [
    method,
    formatCount(parameters),
    lossBefore.toFixed(4),
    lossAfter.toFixed(4),
    ...own,
    `${(1000 * stepSeconds).toFixed(0)} ms`,
  ];
}
