import { TunesmithError } from "../../errors/index.js";
import { bitsPerByte, brierScore, perplexity } from "../scores/calibration.js";
import { mean } from "../scores/check.js";
import { matthewsCorrelation, precisionRecallF1 } from "../scores/classification.js";
import { confidenceInterval } from "../scores/comparison.js";
import { type Score, scoreNamed } from "../scores/registry.js";
import { exactMatches } from "../scores/text-match.js";
import type { Target } from "./prompts.js";
import type { HarnessTask } from "./task.js";

/** What the model said about one row. */
export type Outcome =
  | {
      readonly kind: "choices";
      readonly choices: readonly string[];
      readonly logLikelihoods: readonly number[];
      readonly greedy: readonly boolean[];
      /** Log-likelihoods without the context, when mutual information is asked for. */
      readonly alone: readonly number[] | undefined;
      readonly gold: Target;
    }
  | { readonly kind: "likelihood"; readonly logLikelihood: number; readonly isGreedy: boolean }
  | {
      readonly kind: "rolling";
      readonly logLikelihood: number;
      readonly words: number;
      readonly bytes: number;
    }
  | { readonly kind: "text"; readonly answer: string; readonly gold: readonly string[] };

/** A metric of a task: what a row adds, and what all rows make. */
export interface Metric {
  readonly name: string;
  readonly higherIsBetter: boolean;
  item(outcome: Outcome): unknown;
  aggregate(items: readonly unknown[]): number;
  /** Standard error of the mean; undefined for other aggregations. */
  readonly isMean: boolean;
}

type Aggregation = (items: readonly unknown[]) => number;
type Pair = readonly [number, number];
type Labelled = readonly [number, number];

const firsts = (items: readonly unknown[]) => items.map((item) => (item as Pair)[0]);
const seconds = (items: readonly unknown[]) => items.map((item) => (item as Pair)[1]);

const AGGREGATIONS: Readonly<Record<string, Aggregation>> = {
  mean: (items) => mean(items as readonly number[]),
  median: (items) =>
    [...(items as readonly number[])].sort((a, b) => a - b)[Math.floor(items.length / 2)] as number,
  nanmean: (items) => mean((items as readonly number[]).filter((value) => !Number.isNaN(value))),
  perplexity: (items) => Math.exp(-mean(items as readonly number[])),
  weighted_perplexity: (items) => perplexity(firsts(items), seconds(items)),
  bits_per_byte: (items) => bitsPerByte(firsts(items), seconds(items)),
  f1: (items) => binaryF1(items as readonly Labelled[]),
  matthews_corrcoef: (items) => matthewsCorrelation(firsts(items), seconds(items)),
  brier_score: (items) =>
    brierScore(
      firsts(items),
      items.map((item) => (item as readonly [number, readonly number[]])[1]),
    ),
};

/** Which aggregations take a metric's items. */
const NUMBERS = ["mean", "median", "nanmean", "perplexity"];
const WEIGHTED = ["weighted_perplexity", "bits_per_byte"];

function binaryF1(items: readonly Labelled[]): number {
  const classes = new Set([...firsts(items), ...seconds(items)]);
  if ([...classes].some((label) => label !== 0 && label !== 1)) {
    throw new TunesmithError(
      "data-invalid",
      "f1 is for two choices, of which the second is the positive one",
      {
        fix: "use f1_macro",
      },
    );
  }
  const { classes: scores } = precisionRecallF1(firsts(items), seconds(items), { labels: [0, 1] });
  return scores[1]?.f1 as number;
}

type Choices = Extract<Outcome, { kind: "choices" }>;

/** The first greatest. */
const argmax = (values: readonly number[]): number => values.indexOf(Math.max(...values));
const chosen = ({ logLikelihoods }: Choices) => argmax(logLikelihoods);

/** Numbers of the right choices; −1 for one that does not exist. */
export function goldIndices({ gold, choices }: Choices): number[] {
  return [gold].flat().map((one) => {
    const at = typeof one === "number" ? one : choices.indexOf(one);
    return at >= 0 && at < choices.length ? at : -1;
  });
}

const firstGold = (outcome: Choices) => goldIndices(outcome)[0] ?? -1;
const hit = (outcome: Choices, guess: number): number => (goldIndices(outcome).includes(guess) ? 1 : 0);
const scaled = ({ logLikelihoods, choices }: Choices, size: (choice: string) => number): number =>
  argmax(logLikelihoods.map((value, at) => value / size(choices[at] as string)));

function softmax(values: readonly number[]): number[] {
  const top = Math.max(...values);
  const powers = values.map((value) => Math.exp(value - top));
  const total = powers.reduce((a, b) => a + b);
  return powers.map((power) => power / total);
}

interface Definition {
  readonly item: (outcome: never, settings: Readonly<Record<string, unknown>>) => unknown;
  readonly aggregation: string;
  readonly higherIsBetter: boolean;
  readonly accepts: readonly string[];
}

function define<O extends Outcome>(
  aggregation: string,
  higherIsBetter: boolean,
  item: (outcome: O, settings: Readonly<Record<string, unknown>>) => unknown,
): Definition {
  const accepts = [NUMBERS, WEIGHTED].find((group) => group.includes(aggregation)) ?? [aggregation];
  return { item, aggregation, higherIsBetter, accepts };
}

const bytesOf = (text: string) => new TextEncoder().encode(text).length;
type Rolling = Extract<Outcome, { kind: "rolling" }>;
type Likelihood = Extract<Outcome, { kind: "likelihood" }>;
type Answer = Extract<Outcome, { kind: "text" }>;

/** The harness' own metrics, by output type. */
const DEFINITIONS: Readonly<Record<HarnessTask["output_type"], Readonly<Record<string, Definition>>>> = {
  multiple_choice: {
    acc: define<Choices>("mean", true, (o) => hit(o, chosen(o))),
    acc_norm: define<Choices>("mean", true, (o) =>
      hit(
        o,
        scaled(o, (text) => Array.from(text).length),
      ),
    ),
    acc_bytes: define<Choices>("mean", true, (o) => hit(o, scaled(o, bytesOf))),
    acc_mutual_info: define<Choices>("mean", true, (o) =>
      hit(o, argmax(o.logLikelihoods.map((value, at) => value - (o.alone?.[at] ?? 0)))),
    ),
    exact_match: define<Choices>("mean", true, (o) =>
      goldIndices(o).some((at) => o.greedy[at] === true) ? 1 : 0,
    ),
    f1: define<Choices>("f1", true, (o) => [firstGold(o), chosen(o)]),
    mcc: define<Choices>("matthews_corrcoef", true, (o) => [firstGold(o), chosen(o)]),
    brier_score: define<Choices>("brier_score", false, (o) => [firstGold(o), softmax(o.logLikelihoods)]),
  },
  loglikelihood: {
    perplexity: define<Likelihood>("perplexity", false, (o) => o.logLikelihood),
    acc: define<Likelihood>("mean", true, (o) => (o.isGreedy ? 1 : 0)),
  },
  loglikelihood_rolling: {
    word_perplexity: define<Rolling>("weighted_perplexity", false, (o) => [o.logLikelihood, o.words]),
    byte_perplexity: define<Rolling>("weighted_perplexity", false, (o) => [o.logLikelihood, o.bytes]),
    bits_per_byte: define<Rolling>("bits_per_byte", false, (o) => [o.logLikelihood, o.bytes]),
  },
  generate_until: {
    exact_match: define<Answer>("mean", true, ({ answer, gold }, settings) =>
      Math.max(
        ...exactMatches(
          gold.map(() => answer),
          gold,
          {
            regexesToIgnore: (settings.regexes_to_ignore as readonly string[] | undefined) ?? [],
            ignoreCase: settings.ignore_case === true,
            ignorePunctuation: settings.ignore_punctuation === true,
            ignoreNumbers: settings.ignore_numbers === true,
          },
        ),
      ),
    ),
  },
};

const DEFAULTS: Readonly<Record<HarnessTask["output_type"], readonly string[]>> = {
  multiple_choice: ["acc", "acc_norm"],
  loglikelihood: ["perplexity", "acc"],
  loglikelihood_rolling: ["word_perplexity", "byte_perplexity", "bits_per_byte"],
  generate_until: ["exact_match"],
};

/**
 * The metrics of a task: those of the harness, and every score of the registry that fits the output type. Throws
 * `config-invalid` for an unknown metric or an aggregation that does not fit.
 */
export function metricsOf(task: HarnessTask): Metric[] {
  const listed = task.metric_list ?? DEFAULTS[task.output_type].map((metric) => ({ metric }));
  return listed.map((given) => {
    const {
      metric: name,
      aggregation,
      higher_is_better: better,
      ...settings
    } = given as Record<string, unknown> & {
      metric: string;
      aggregation?: string;
      higher_is_better?: boolean;
    };
    const own = DEFINITIONS[task.output_type];
    const definition = Object.hasOwn(own, name) ? (own[name] as Definition) : undefined;
    if (!definition) return fromRegistry(task, name, aggregation, better);
    const used = aggregation ?? definition.aggregation;
    if (!definition.accepts.includes(used)) throw misfit(task, name, used, definition.accepts);
    return {
      name,
      higherIsBetter: better ?? definition.higherIsBetter,
      item: (outcome: Outcome) => definition.item(outcome as never, settings),
      aggregate: AGGREGATIONS[used] as Aggregation,
      isMean: used === "mean",
    };
  });
}

const misfit = (task: HarnessTask, metric: string, used: string, accepts: readonly string[]) =>
  new TunesmithError("config-invalid", `task '${task.task}': ${metric} is not aggregated by '${used}'`, {
    fix: `use ${accepts.join(", ")}`,
  });

function fromRegistry(
  task: HarnessTask,
  name: string,
  aggregation: string | undefined,
  better: boolean | undefined,
): Metric {
  const score = scoreNamed(name);
  const example = exampleMaker(task, score);
  if (aggregation !== undefined && ![name, "mean"].includes(aggregation))
    throw misfit(task, name, aggregation, [name]);
  return {
    name,
    higherIsBetter: better ?? score.better === "higher",
    item: (outcome) => score.prepare([example(outcome)])[0],
    aggregate: score.statistic,
    isMean: false,
  };
}

/** How a row becomes an example of the score's kind. */
function exampleMaker(task: HarnessTask, score: Score): (outcome: Outcome) => unknown {
  if (task.output_type === "generate_until" && score.needs === "text") {
    return (outcome) => {
      const { answer, gold } = outcome as Answer;
      return { prediction: answer, references: gold.length === 1 ? gold[0] : gold };
    };
  }
  if (task.output_type === "multiple_choice" && score.needs === "labels") {
    return (outcome) => ({ expected: firstGold(outcome as Choices), predicted: chosen(outcome as Choices) });
  }
  if (task.output_type === "multiple_choice" && score.needs === "probabilities") {
    return (outcome) => ({
      expected: firstGold(outcome as Choices),
      probabilities: softmax((outcome as Choices).logLikelihoods),
    });
  }
  throw new TunesmithError(
    "config-invalid",
    `task '${task.task}': ${score.name} needs '${score.needs}' examples`,
    {
      fix: `with output_type ${task.output_type} use ${Object.keys(DEFINITIONS[task.output_type]).join(", ")}`,
    },
  );
}

/** Resamples of a standard error; BLEU and its like take long. */
const RESAMPLES = 1000;

/** Standard error: of a mean by its formula, of anything else by the bootstrap. Undefined for a single row. */
export function standardError(metric: Metric, items: readonly unknown[]): number | undefined {
  if (items.length < 2) return undefined;
  if (metric.isMean) {
    const centre = mean(items as readonly number[]);
    const squares = (items as readonly number[]).map((value) => (value - centre) ** 2);
    return Math.sqrt(mean(squares) / (items.length - 1));
  }
  const drawn: number[] = [];
  confidenceInterval(items, {
    resamples: RESAMPLES,
    statistic: (sample) => {
      const value = metric.aggregate(sample);
      drawn.push(value);
      return value;
    },
  });
  // The last is the estimate itself, and no resample.
  const resampled = drawn.slice(0, RESAMPLES);
  const centre = mean(resampled);
  return Math.sqrt((mean(resampled.map((value) => (value - centre) ** 2)) * RESAMPLES) / (RESAMPLES - 1));
}
