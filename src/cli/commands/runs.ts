import type { z } from "zod";
import {
  compareRuns,
  findRun,
  type MetricPoint,
  type RunRecord,
  type RunStore,
} from "../../training/index.js";
import type { Context } from "../command.js";
import { withStore } from "../tracking/location.js";
import type {
  runsCompareSchema,
  runsDeleteSchema,
  runsListSchema,
  runsShowSchema,
} from "../tracking/schemas.js";
import { columns, shownDuration, shownNumber, shownTime, shownValue } from "../tracking/text.js";
import { table } from "../ui.js";

export function runRunsList(options: z.output<typeof runsListSchema>, { ui }: Context): Promise<void> {
  const { track, limit, status } = options;
  return withStore(track, async (store) => {
    const all = await store.list();
    const runs = all.filter((run) => status === undefined || run.status === status).slice(0, limit);
    ui.result({ track: store.location, runs });
    if (ui.json) return;
    if (runs.length === 0) return ui.say(`no runs in ${store.location}`);
    const head = ["id", "name", "state", "method", "model", "step", "loss", "eval loss", "started", "took"];
    ui.say(columns(head, runs.map(listed)));
    if (all.length > limit && status === undefined) ui.say(`${all.length - limit} older ones (--limit)`);
  });
}

const listed = (run: RunRecord): string[] => [
  ...[run.id, run.name, run.status, run.method, shortened(run.model), `${run.step}/${run.steps}`],
  ...[shownNumber(run.summary.loss), shownNumber(run.summary.evalLoss)],
  ...[shownTime(run.createdAt), shownDuration(run)],
];

const shortened = (text: string) => (text.length > 32 ? `…${text.slice(-31)}` : text);

export function runRunsShow(options: z.output<typeof runsShowSchema>, { ui }: Context): Promise<void> {
  return withStore(options.track, async (store) => {
    const run = await findRun(store, options.run);
    const metrics = summarised(await store.metrics(run.id));
    const artifacts = await store.artifacts(run.id);
    ui.result({ ...run, metrics, artifacts });
    if (ui.json) return;
    ui.say(
      table([
        ["run", `${run.id} (${run.name})`],
        ["state", run.error === undefined ? run.status : `${run.status}: ${run.error}`],
        ["started", `${shownTime(run.createdAt)} UTC on ${run.host}, took ${shownDuration(run)}`],
        ["steps", `${run.step} of ${run.steps}`],
        ["model", run.model],
        ["method", run.method],
        ["folder", run.runDir],
        ["version", run.version],
      ]),
    );
    const keys = Object.keys(run.config);
    ui.say("\nconfiguration");
    const origin = (key: string) => run.origins[key] ?? "";
    ui.say(
      columns(
        ["key", "value", "from"],
        keys.map((key) => [key, shownValue(run.config[key]), origin(key)]),
      ),
    );
    if (metrics.length > 0) {
      ui.say("\nmetrics");
      const rows = metrics.map(({ name, count, last, min, max }) => [
        name,
        String(count),
        ...[last, min, max].map(shownNumber),
      ]);
      ui.say(columns(["name", "points", "last", "least", "most"], rows));
    }
    if (artifacts.length > 0) {
      ui.say("\nfiles");
      ui.say(
        columns(
          ["kind", "step", "path"],
          artifacts.map(({ kind, step, path }) => [kind, step === undefined ? "" : String(step), path]),
        ),
      );
    }
  });
}

function summarised(points: readonly MetricPoint[]) {
  const groups = new Map<string, MetricPoint[]>();
  for (const point of points) {
    const group = groups.get(point.name);
    if (group) group.push(point);
    else groups.set(point.name, [point]);
  }
  return [...groups].map(([name, group]) => {
    const numbers = group.map(({ value }) => value).filter((value) => !Number.isNaN(value));
    return {
      name,
      count: group.length,
      last: group.at(-1)?.value,
      min: numbers.reduce((least, value) => Math.min(least, value), Number.POSITIVE_INFINITY),
      max: numbers.reduce((most, value) => Math.max(most, value), Number.NEGATIVE_INFINITY),
    };
  });
}

/** The runs of several names, each once, in the order in which they were given. */
export async function findRuns(store: RunStore, wanted: readonly string[]): Promise<RunRecord[]> {
  const found = new Map<string, RunRecord>();
  for (const name of wanted) {
    const run = await findRun(store, name);
    found.set(run.id, run);
  }
  return [...found.values()];
}

export function runRunsCompare(options: z.output<typeof runsCompareSchema>, { ui }: Context): Promise<void> {
  return withStore(options.track, async (store) => {
    const runs = await findRuns(store, options.runs);
    const comparison = compareRuns(runs);
    ui.result({ runs: runs.map(({ id, name, status }) => ({ id, name, status })), ...comparison });
    if (ui.json) return;
    const names = runs.map(({ name, id }) =>
      runs.filter((run) => run.name === name).length > 1 ? id : name,
    );
    ui.say("configuration where it differs");
    const differing = comparison.config.map(({ key, values }) => [key, ...values.map(shownValue)]);
    ui.say(differing.length > 0 ? columns(["key", ...names], differing) : "  nowhere");
    ui.say("\nmetrics, latest values");
    const latest = comparison.metrics.map(({ key, values }) => [
      key,
      ...values.map((value) => shownNumber(value as number | undefined)),
    ]);
    ui.say(latest.length > 0 ? columns(["metric", ...names], latest) : "  none");
  });
}

export function runRunsDelete(options: z.output<typeof runsDeleteSchema>, { ui }: Context): Promise<void> {
  return withStore(options.track, async (store) => {
    const runs = await findRuns(store, options.runs);
    await store.remove(runs.map(({ id }) => id));
    ui.say(
      `deleted ${runs.map(({ id }) => id).join(", ")} from ${store.location}; their files are still there`,
    );
    ui.result({ deleted: runs.map(({ id }) => id) });
  });
}
