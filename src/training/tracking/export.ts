import type { Artifact, MetricPoint, RunRecord } from "./types.js";

/** Points of the same step in one record, ordered by step. */
function bySteps(
  points: readonly MetricPoint[],
): { step: number; time: number; values: Map<string, number> }[] {
  const steps = new Map<number, { step: number; time: number; values: Map<string, number> }>();
  for (const { step, name, value, time } of points) {
    const row = steps.get(step) ?? { step, time, values: new Map() };
    row.time = Math.max(row.time, time);
    row.values.set(name, value);
    steps.set(step, row);
  }
  return [...steps.values()].sort((a, b) => a.step - b.step);
}

/**
 * Metrics as CSV with the columns `step`, `timestamp` (ISO 8601) and one for each metric: what
 * `trackio.import_csv` reads, and every spreadsheet. A metric that a step does not have is an empty field.
 *
 * @example
 * ```ts
 * import { metricsCsv } from "tunesmith/training";
 * console.log(metricsCsv([{ name: "loss", step: 1, value: 2.5, time: 0 }]));
 * ```
 */
export function metricsCsv(points: readonly MetricPoint[]): string {
  const names = [...new Set(points.map(({ name }) => name))].sort();
  const lines = bySteps(points).map(({ step, time, values }) =>
    [step, new Date(time).toISOString(), ...names.map((name) => values.get(name) ?? "")].join(","),
  );
  return `${[["step", "timestamp", ...names.map(field)].join(","), ...lines].join("\n")}\n`;
}

const field = (text: string) => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);

/**
 * A whole run as JSON lines, each with a `type`: first `run` (configuration, origins, state), then `step` lines (`step`,
 * `timestamp`, one key for each metric), then `artifact`. Numbers that JSON lacks are the texts "NaN", "Infinity" and
 * "-Infinity", as in metrics.jsonl.
 *
 * @example
 * ```ts
 * import { memoryRunStore, runJsonLines } from "tunesmith/training";
 * const store = memoryRunStore();
 * for (const run of await store.list())
 *   console.log(runJsonLines(run, await store.metrics(run.id), await store.artifacts(run.id)));
 * ```
 */
export function runJsonLines(
  run: RunRecord,
  points: readonly MetricPoint[],
  artifacts: readonly Artifact[],
): string {
  const lines = [
    { type: "run", ...run },
    ...bySteps(points).map(({ step, time, values }) => ({
      type: "step",
      step,
      timestamp: new Date(time).toISOString(),
      ...Object.fromEntries(values),
    })),
    ...artifacts.map((artifact) => ({ type: "artifact", ...artifact })),
  ];
  const value = (_key: string, inner: unknown): unknown =>
    typeof inner === "number" && !Number.isFinite(inner) ? String(inner) : inner;
  return `${lines.map((line) => JSON.stringify(line, value)).join("\n")}\n`;
}
