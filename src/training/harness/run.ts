import { TunesmithError } from "../../errors/index.js";
import { type CausalLm, createGenerator, type GenerateOptions } from "../../models/index.js";
import { taskData } from "./documents.js";
import { filtersOf } from "./filters.js";
import { type LogLikelihoodOptions, type LogLikelihoodRequest, logLikelihoods } from "./loglikelihood.js";
import { type Metric, metricsOf, type Outcome, standardError } from "./metrics.js";
import { choice, contextOf, fewShotOf, type Prompts, promptsOf, wrong } from "./prompts.js";
import { type RequestEncoder, requestEncoder } from "./requests.js";
import type { HarnessTask } from "./task.js";
import type { Doc } from "./templates.js";

export interface HarnessOptions extends LogLikelihoodOptions {
  /** Only the first rows of each task. */
  readonly limit?: number;
  /** Instead of what the tasks say. */
  readonly numFewshot?: number;
  /** Seed of the choice of few-shot examples; default 1234, as in the harness. */
  readonly fewshotSeed?: number;
}

/** One row as it was asked and answered. */
export interface HarnessSample {
  readonly doc_id: number;
  readonly doc: Doc;
  readonly target: unknown;
  /** Contexts and continuations, or the prompt. */
  readonly arguments: readonly (readonly string[])[];
  readonly resps: readonly unknown[];
  readonly filter: string;
  readonly filtered_resps: readonly unknown[];
  /** What the row adds to each metric. */
  readonly metrics: Readonly<Record<string, unknown>>;
}

type PerTask<T> = Readonly<Record<string, T>>;

/** Results in the layout of the harness' JSON files. */
export interface HarnessResults {
  readonly results: PerTask<Readonly<Record<string, number | string>>>;
  readonly configs: PerTask<object>;
  readonly versions: PerTask<unknown>;
  readonly "n-shot": PerTask<number>;
  readonly higher_is_better: PerTask<Readonly<Record<string, boolean>>>;
  readonly "n-samples": PerTask<{ readonly original: number; readonly effective: number }>;
  readonly samples: PerTask<readonly HarnessSample[]>;
}

/** The rows of one task with what is asked about each. */
interface Prepared {
  readonly task: HarnessTask;
  readonly prompts: Prompts;
  readonly docs: readonly Doc[];
  readonly contexts: readonly (readonly string[])[];
  readonly original: number;
  readonly shots: number;
}

/** Answers about one row: before filters. */
interface Answered {
  readonly arguments: readonly (readonly string[])[];
  readonly responses: readonly unknown[];
  /** The outcome when the filter turns a generated text into `text`. */
  readonly outcome: (filter: (text: string) => string) => Outcome;
}

/**
 * Runs tasks of the LM evaluation harness on a model and gives results in its layout, with what was asked and answered
 * row by row.
 *
 * @throws what loading data and templates throws; `tokenizer-unsupported` for a model without tokenizer; `name-conflict` for
 *   two tasks of one name; `cancelled`.
 * @example
 * ```ts
 * import { loadModel } from "tunesmith/models";
 * import { loadTask, runTasks } from "tunesmith/training";
 * const { results } = await runTasks(await loadModel("path/to/model"), [await loadTask("questions.yaml")]);
 * console.log(results);
 * ```
 */
export async function runTasks(
  model: CausalLm,
  tasks: readonly HarnessTask[],
  options: HarnessOptions = {},
): Promise<HarnessResults> {
  const names = tasks.map(({ task }) => task);
  const twice = names.find((name, at) => names.indexOf(name) < at);
  if (twice !== undefined) {
    throw new TunesmithError("name-conflict", `two tasks are called '${twice}'`, { fix: "rename one" });
  }
  // Everything that can be wrong with a task is found before the model runs for any.
  const checked = tasks.map((task) => ({ metrics: metricsOf(task), filters: filtersOf(task) }));
  const prepared = await Promise.all(tasks.map((task) => prepare(task, options)));
  const encoder = requestEncoder(model);
  const parts: ReturnType<typeof summarise>[] = [];
  for (const [at, { metrics, filters }] of checked.entries()) {
    const work = prepared[at] as Prepared;
    const wantsAlone = metrics.some(({ name }) => name === "acc_mutual_info");
    const answered = await answer(model, encoder, work, wantsAlone, options);
    parts.push(summarise(work, answered, metrics, filters));
  }
  const table = <T>(pick: (part: (typeof parts)[number]) => T): PerTask<T> =>
    Object.fromEntries(parts.map((part) => [part.name, pick(part)]));
  return {
    results: table(({ results }) => results),
    configs: table(({ config }) => config),
    versions: table(({ version }) => version),
    "n-shot": table(({ shots }) => shots),
    higher_is_better: table(({ better }) => better),
    "n-samples": table(({ counts }) => counts),
    samples: table(({ samples }) => samples),
  };
}

async function prepare(task: HarnessTask, options: HarnessOptions): Promise<Prepared> {
  const split = task.test_split ?? task.validation_split;
  if (!split) {
    throw new TunesmithError(
      "config-invalid",
      `task '${task.task}' has neither test_split nor validation_split`,
      {
        fix: "name the split that is evaluated",
      },
    );
  }
  const data = taskData(task);
  const all = await data.split(split);
  const docs = options.limit === undefined ? all : all.slice(0, options.limit);
  const prompts = promptsOf(task, new Set(Object.keys(all[0] ?? {})));
  const shots = options.numFewshot ?? task.num_fewshot ?? 0;
  const seed = options.fewshotSeed === undefined ? {} : { seed: options.fewshotSeed };
  const fewShot = await fewShotOf(task, data, { shots, evalSplit: split, ...seed });
  // In order: each row's examples continue the same random sequence.
  const contexts = docs.map((doc) => contextOf(task, prompts, doc, fewShot.sample(doc)));
  return { task, prompts, docs, contexts, original: all.length, shots };
}

function answer(
  model: CausalLm,
  encoder: RequestEncoder,
  work: Prepared,
  wantsAlone: boolean,
  options: HarnessOptions,
): Promise<Answered[]> {
  switch (work.task.output_type) {
    case "multiple_choice":
      return answerChoices(model, encoder, work, wantsAlone, options);
    case "loglikelihood":
      return answerLikelihood(model, encoder, work, options);
    case "loglikelihood_rolling":
      return answerRolling(model, encoder, work, options);
    default:
      return answerText(model, encoder, work, options);
  }
}

/** Runs requests of all rows together; gives them back row by row. */
async function perRow(model: CausalLm, rows: readonly LogLikelihoodRequest[][], options: HarnessOptions) {
  const flat = await logLikelihoods(model, rows.flat(), options);
  let at = 0;
  return rows.map((own) => {
    at += own.length;
    return flat.slice(at - own.length, at);
  });
}

async function answerChoices(
  model: CausalLm,
  encoder: RequestEncoder,
  { task, prompts, docs, contexts }: Prepared,
  wantsAlone: boolean,
  options: HarnessOptions,
): Promise<Answered[]> {
  const asked = docs.map((doc, row) => {
    const choices = prompts.choices(doc);
    const own = contexts[row] as readonly string[];
    const inputs = typeof prompts.text(doc) === "number";
    const target = String([prompts.target(doc)].flat()[0] ?? "");
    const pairs = choices.map((text, at): [string, string] =>
      inputs
        ? [own[at] as string, task.target_delimiter + target]
        : [own[0] as string, task.target_delimiter + text],
    );
    const alone = wantsAlone
      ? choices.map((text): [string, string] => ["", task.target_delimiter + text])
      : [];
    return { choices, gold: inputs ? prompts.text(doc) : prompts.target(doc), pairs: [...pairs, ...alone] };
  });
  const rows = asked.map(({ pairs }) => pairs.map(([context, text]) => encoder.pair(context, text)));
  const scored = await perRow(model, rows, options);
  return asked.map(({ choices, gold, pairs }, row) => {
    const own = scored[row] ?? [];
    const values = own.map(({ logLikelihood }) => logLikelihood);
    return {
      arguments: pairs,
      responses: own.map(({ logLikelihood, isGreedy }) => [logLikelihood, isGreedy]),
      outcome: () => ({
        kind: "choices",
        choices,
        gold,
        logLikelihoods: values.slice(0, choices.length),
        greedy: own.slice(0, choices.length).map(({ isGreedy }) => isGreedy),
        alone: wantsAlone ? values.slice(choices.length) : undefined,
      }),
    };
  });
}

async function answerLikelihood(
  model: CausalLm,
  encoder: RequestEncoder,
  { prompts, docs, contexts }: Prepared,
  options: HarnessOptions,
): Promise<Answered[]> {
  const asked = docs.map((doc, row): [string, string] => [
    contexts[row]?.[0] as string,
    String([prompts.target(doc)].flat()[0] ?? ""),
  ]);
  const rows = asked.map(([context, text]) => [encoder.pair(context, text)]);
  const scored = await perRow(model, rows, options);
  return asked.map((pair, row) => {
    const { logLikelihood = Number.NaN, isGreedy = false } = scored[row]?.[0] ?? {};
    return {
      arguments: [pair],
      responses: [[logLikelihood, isGreedy]],
      outcome: () => ({ kind: "likelihood", logLikelihood, isGreedy }),
    };
  });
}

async function answerRolling(
  model: CausalLm,
  encoder: RequestEncoder,
  { task, prompts, docs, shots }: Prepared,
  options: HarnessOptions,
): Promise<Answered[]> {
  if (shots > 0) {
    throw new TunesmithError(
      "config-invalid",
      `task '${task.task}': loglikelihood_rolling takes no examples`,
      {
        fix: "set num_fewshot to 0",
      },
    );
  }
  const texts = docs.map((doc) => String(prompts.target(doc)));
  const scored = await perRow(model, texts.map(encoder.rolling), options);
  return texts.map((text, row) => {
    const logLikelihood = (scored[row] ?? []).reduce((sum, part) => sum + part.logLikelihood, 0);
    const size = { words: text.split(/\s+/).length, bytes: new TextEncoder().encode(text).length };
    return {
      arguments: [[text]],
      responses: [logLikelihood],
      outcome: () => ({ kind: "rolling", logLikelihood, ...size }),
    };
  });
}

/** Most new tokens when a task does not say. */
const MAX_NEW_TOKENS = 256;

function generationOf(task: HarnessTask): GenerateOptions & { readonly maxTokens: number } {
  const given = task.generation_kwargs ?? {};
  const stop = [given.until ?? task.fewshot_delimiter].flat().filter((text) => text !== "");
  const temperature = given.do_sample === false ? 0 : (given.temperature ?? 0);
  return {
    maxTokens: given.max_gen_toks ?? given.max_new_tokens ?? given.max_tokens ?? MAX_NEW_TOKENS,
    stop,
    temperature,
    ...(given.top_p === undefined ? {} : { topP: given.top_p }),
    ...(given.top_k === undefined ? {} : { topK: given.top_k }),
  };
}

async function answerText(
  model: CausalLm,
  encoder: RequestEncoder,
  { task, prompts, docs, contexts }: Prepared,
  options: HarnessOptions,
): Promise<Answered[]> {
  const settings = generationOf(task);
  const room = model.sizes.maxPositions - settings.maxTokens;
  if (room < 1) {
    throw new TunesmithError(
      "config-invalid",
      `task '${task.task}': ${settings.maxTokens} new tokens; the model reads ${model.sizes.maxPositions} in all`,
      { fix: "set generation_kwargs.max_gen_toks lower" },
    );
  }
  const { batchSize = 8, signal, onProgress } = options;
  const ids = contexts.map(([text]) => encoder.prompt(text as string, room));
  const order = ids.map((_, at) => at).sort((a, b) => (ids[b]?.length ?? 0) - (ids[a]?.length ?? 0) || a - b);
  const texts = new Array<string>(ids.length);
  const generator = await createGenerator(model, options.session);
  try {
    for (let at = 0; at < order.length; at += batchSize) {
      const rows = order.slice(at, at + batchSize);
      const made = await generator.generateBatch(
        rows.map((row) => ids[row] as number[]),
        { ...settings, ...(signal ? { signal } : {}) },
      );
      rows.forEach((row, index) => {
        texts[row] = made[index]?.text ?? "";
      });
      onProgress?.(Math.min(at + batchSize, order.length), order.length);
    }
  } finally {
    await generator.close();
  }
  return docs.map((doc, row) => {
    const text = texts[row] as string;
    const gold = goldTexts(task, prompts, doc);
    return {
      arguments: [[contexts[row]?.[0] as string]],
      responses: [text],
      outcome: (filter) => ({ kind: "text", answer: filter(text), gold }),
    };
  });
}

function goldTexts(task: HarnessTask, prompts: Prompts, doc: Doc): string[] {
  const targets = [prompts.target(doc)].flat();
  if (targets.length === 0) throw wrong(task, "doc_to_target", "gives an empty list");
  if (task.doc_to_choice === undefined) return targets.map(String);
  const choices = prompts.choices(doc);
  return targets.map((one) => (typeof one === "number" ? choice(task, choices, one) : one));
}

function summarise(
  { task, prompts, docs, original, shots }: Prepared,
  answered: readonly Answered[],
  metrics: readonly Metric[],
  filters: ReturnType<typeof filtersOf>,
) {
  const results: Record<string, number | string> = {
    name: task.task,
    alias: task.task_alias ?? task.task,
    sample_len: docs.length,
  };
  const samples: HarnessSample[] = [];
  for (const filter of filters) {
    const outcomes = answered.map(({ outcome }) => outcome(filter.apply));
    const items = metrics.map((metric) => outcomes.map((outcome) => metric.item(outcome)));
    for (const [at, metric] of metrics.entries()) {
      const own = items[at] as unknown[];
      results[`${metric.name},${filter.name}`] = metric.aggregate(own);
      results[`${metric.name}_stderr,${filter.name}`] = standardError(metric, own) ?? "N/A";
    }
    for (const [row, doc] of docs.entries()) {
      const { arguments: asked, responses } = answered[row] as Answered;
      const outcome = outcomes[row] as Outcome;
      samples.push({
        doc_id: row,
        doc,
        target: prompts.target(doc),
        arguments: asked,
        resps: responses,
        filter: filter.name,
        filtered_resps: outcome.kind === "text" ? [outcome.answer] : responses,
        metrics: Object.fromEntries(metrics.map(({ name }, at) => [name, items[at]?.[row]])),
      });
    }
  }
  const { origin: _, ...config } = task;
  return {
    name: task.task,
    results,
    config: { ...config, num_fewshot: shots },
    version: task.metadata?.version ?? "Yaml",
    shots,
    better: Object.fromEntries(metrics.map(({ name, higherIsBetter }) => [name, higherIsBetter])),
    counts: { original, effective: docs.length },
    samples,
  };
}
