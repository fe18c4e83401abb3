import { z } from "zod";
import { TunesmithError } from "../../errors/index.js";
import {
  type BootstrapComparison,
  type ComparisonOptions,
  pairedBootstrap,
  pairedPermutationTest,
} from "../scores/comparison.js";
import { scoreNamed } from "../scores/registry.js";
import { metricsOf } from "./metrics.js";
import { PREDICTIONS } from "./predictions.js";
import { parseTask } from "./task.js";

/** One metric of one task in two runs. */
export interface ResultComparison extends BootstrapComparison {
  readonly task: string;
  readonly metric: string;
  /** The chain of filters; `none` where there is none. */
  readonly filter: string;
  readonly higherIsBetter: boolean;
  /** Two-sided, of the paired permutation test. */
  readonly permutationPValue: number;
  readonly examples: number;
}

const sample = z.looseObject({
  doc_id: z.number(),
  doc: z.unknown(),
  filter: z.string(),
  metrics: z.record(z.string(), z.unknown()),
});
const run = z.looseObject({
  configs: z.record(z.string(), z.record(z.string(), z.unknown())),
  samples: z.record(z.string(), z.array(sample)),
});
type Run = z.output<typeof run>;
type Sample = z.output<typeof sample>;

/**
 * Compares two results of `runTasks` (or of `scorePredictions`) over the same examples: every metric they share, with the
 * paired bootstrap and the paired permutation test.
 *
 * @param a results of the first run, as parsed from its JSON
 * @param b those of the second
 * @throws `data-invalid` when one is no such file, or they are about other examples; `data-empty` when they share nothing.
 * @example
 * ```ts
 * import { compareResults, type HarnessResults } from "tunesmith/training";
 * export function report(before: HarnessResults, after: HarnessResults): void {
 *   for (const { task, metric, difference, pValue } of compareResults(before, after)) {
 *     console.log(task, metric, difference, pValue);
 *   }
 * }
 * ```
 */
export function compareResults(
  a: unknown,
  b: unknown,
  options: Omit<ComparisonOptions<unknown>, "statistic"> = {},
): ResultComparison[] {
  const [first, second] = [readRun(a, "the first file"), readRun(b, "the second file")];
  const compared = pairsOf(first, second).flatMap((pair) => compareTask(pair, first, second, options));
  if (compared.length > 0) return compared;
  throw new TunesmithError("data-empty", "the two runs have no task and metric in common", {
    fix: `the first has ${Object.keys(first.samples).join(", ")}, the second ${Object.keys(second.samples).join(", ")}`,
  });
}

/** Tasks of one name; where each run has a single task, these, whatever they are called. */
function pairsOf(first: Run, second: Run): [string, string][] {
  const [left, right] = [Object.keys(first.samples), Object.keys(second.samples)];
  const [a, b] = [left[0], right[0]];
  if (left.length === 1 && right.length === 1 && a !== undefined && b !== undefined) return [[a, b]];
  return left.filter((task) => right.includes(task)).map((task) => [task, task]);
}

function readRun(value: unknown, which: string): Run {
  const read = run.safeParse(value);
  if (read.success) return read.data;
  const issue = read.error.issues[0];
  throw new TunesmithError(
    "data-invalid",
    `${which} is no result with examples: ${issue?.path.join(".")}: ${issue?.message}`,
    {
      fix: "compare files that `tunesmith eval --out` wrote for a task",
    },
  );
}

function compareTask(
  [task, other]: readonly [string, string],
  first: Run,
  second: Run,
  options: Omit<ComparisonOptions<unknown>, "statistic">,
): ResultComparison[] {
  const config = first.configs[task] ?? {};
  const filters = [...new Set(first.samples[task]?.map(({ filter }) => filter))];
  return filters.flatMap((filter) => {
    const rowsOf = (samples: readonly Sample[] = []) =>
      samples.filter((row) => row.filter === filter).sort((x, y) => x.doc_id - y.doc_id);
    const [rows, others] = [rowsOf(first.samples[task]), rowsOf(second.samples[other])];
    if (others.length === 0) return [];
    checkSameDocs(task, config, rows, others);
    return aggregatesOf(config).flatMap(({ name, higherIsBetter, aggregate }) => {
      const items = (side: readonly Sample[]) => side.map(({ metrics }) => metrics[name]);
      const [left, right] = [items(rows), items(others)];
      if ([...left, ...right].includes(undefined)) return [];
      const settings = { ...options, statistic: aggregate };
      const permutation = pairedPermutationTest(left, right, settings);
      return [
        {
          task,
          metric: name,
          filter,
          higherIsBetter,
          ...pairedBootstrap(left, right, settings),
          permutationPValue: permutation.pValue,
          examples: left.length,
        },
      ];
    });
  });
}

/** How the metrics of a run's task are computed from examples. */
function aggregatesOf(config: Readonly<Record<string, unknown>>) {
  if (config.output_type === PREDICTIONS) {
    return (config.metric_list as readonly { metric: string }[]).map(({ metric }) => {
      const { better, statistic } = scoreNamed(metric);
      return { name: metric, higherIsBetter: better === "higher", aggregate: statistic };
    });
  }
  return metricsOf(parseTask(config, "the first file"));
}

/** Fields that hold what was predicted, in rows of predictions. */
const PREDICTED = new Set(["prediction", "predicted", "probabilities", "ranked", "logLikelihood"]);

function checkSameDocs(
  task: string,
  config: Readonly<Record<string, unknown>>,
  rows: readonly Sample[],
  others: readonly Sample[],
): void {
  const key = ({ doc }: Sample) =>
    JSON.stringify(doc, (name, value) =>
      config.output_type === PREDICTIONS && PREDICTED.has(name) ? undefined : value,
    );
  const at = rows.findIndex((row, index) => key(row) !== key(others[index] ?? row));
  if (rows.length === others.length && at < 0) return;
  const where =
    rows.length === others.length
      ? `example ${at} differs`
      : `${rows.length} against ${others.length} examples`;
  throw new TunesmithError("data-invalid", `task '${task}': the runs are about other examples (${where})`, {
    fix: "compare runs over the same data",
  });
}
