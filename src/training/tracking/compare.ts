import type { MetricPoint, RunRecord } from "./types.js";

/** One value per run, in their order; undefined where a run has none. */
export interface ComparedRow {
  readonly key: string;
  readonly values: readonly unknown[];
}

/** Runs side by side. */
export interface RunComparison {
  readonly ids: readonly string[];
  /** Options in which the runs differ. */
  readonly config: readonly ComparedRow[];
  /** The latest value of every metric that any of them has. */
  readonly metrics: readonly ComparedRow[];
}

/**
 * In which options runs differ, and what came out.
 *
 * @example
 * ```ts
 * import { compareRuns, memoryRunStore } from "tunesmith/training";
 * console.log(compareRuns(await memoryRunStore().list()).config);
 * ```
 */
export function compareRuns(runs: readonly RunRecord[]): RunComparison {
  const configs = rows(runs.map(({ config }) => config));
  return {
    ids: runs.map(({ id }) => id),
    config: configs.filter(({ values: [first, ...rest] }) => rest.some((value) => !same(value, first))),
    metrics: rows(runs.map(({ summary }) => summary)),
  };
}

/** JSON objects without regard to the order of their keys. */
const same = (a: unknown, b: unknown): boolean => canonical(a) === canonical(b);
const canonical = (value: unknown): string | undefined =>
  JSON.stringify(value, (_key, inner: unknown) =>
    typeof inner === "object" && inner !== null && !Array.isArray(inner)
      ? Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1)))
      : inner,
  );

function rows(objects: readonly Readonly<Record<string, unknown>>[]): ComparedRow[] {
  const keys = [...new Set(objects.flatMap((object) => Object.keys(object)))].sort();
  return keys.map((key) => ({ key, values: objects.map((object) => object[key]) }));
}

/** One line of a chart: steps rise, values are finite. */
export interface MetricLine {
  readonly name: string;
  readonly steps: readonly number[];
  readonly values: readonly number[];
}

/**
 * The points of one metric as a line. `smoothing` between 0 (none) and 1 is the weight of the past in an exponential
 * moving average without bias at the start; `maxPoints` bounds the length by averaging neighbours.
 *
 * @example
 * ```ts
 * import { metricLine } from "tunesmith/training";
 * const points = [1, 2, 3].map((step) => ({ name: "loss", step, value: 1 / step, time: 0 }));
 * console.log(metricLine("run", points, { smoothing: 0.9 }).values);
 * ```
 */
export function metricLine(
  name: string,
  points: readonly MetricPoint[],
  options: { readonly smoothing?: number; readonly maxPoints?: number } = {},
): MetricLine {
  const { smoothing = 0, maxPoints = 2000 } = options;
  const finite = points.filter(({ value }) => Number.isFinite(value));
  let [past, weight] = [0, 0];
  const smooth = finite.map(({ step, value }) => {
    past = smoothing * past + (1 - smoothing) * value;
    weight = smoothing * weight + (1 - smoothing);
    return { step, value: smoothing === 0 ? value : past / weight };
  });
  const group = Math.max(1, Math.ceil(smooth.length / maxPoints));
  const steps: number[] = [];
  const values: number[] = [];
  for (let at = 0; at < smooth.length; at += group) {
    const part = smooth.slice(at, at + group);
    steps.push(part.at(-1)?.step ?? 0);
    values.push(part.reduce((sum, { value }) => sum + value, 0) / part.length);
  }
  return { name, steps, values };
}
