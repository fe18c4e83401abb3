import pc from "picocolors";
import type { z } from "zod";
import { writeFileAtomic } from "#io";
import { TunesmithError } from "../../errors/index.js";
import {
  compareRuns,
  type MetricLine,
  metricLine,
  type RunRecord,
  type RunStore,
} from "../../training/index.js";
import type { Context } from "../command.js";
import { type Chart, chartTitle, htmlPage, pngOf, svgDocument, terminalChart } from "../tracking/charts.js";
import { withStore } from "../tracking/location.js";
import type { runsPlotSchema } from "../tracking/schemas.js";
import { shownNumber, shownValue } from "../tracking/text.js";
import { findRuns } from "./runs.js";

type Options = z.output<typeof runsPlotSchema>;

/** Columns of a chart where the terminal does not say how wide it is. */
const COLUMNS = 90;

export async function runRunsPlot(options: Options, { ui }: Context): Promise<void> {
  const writers = options.out.map((path) => ({ path, write: writerOf(path) }));
  return withStore(options.track, async (store) => {
    const runs = await findRuns(store, options.runs);
    const charts = await chartsOf(store, runs, options);
    for (const chart of charts)
      ui.say(terminalChart(chart, process.stdout.columns ?? COLUMNS, pc.isColorSupported));
    for (const { path, write } of writers) {
      await writeFileAtomic(path, await write(charts, runs));
      ui.say(`wrote ${path}`);
    }
    ui.result({ runs: runs.map(({ id }) => id), charts, files: options.out });
  });
}

type Writer = (
  charts: readonly Chart[],
  runs: readonly RunRecord[],
) => Promise<string | Uint8Array<ArrayBufferLike>>;

function writerOf(path: string): Writer {
  const ending = /\.(\w+)$/.exec(path)?.[1]?.toLowerCase();
  if (ending === "svg") return async (charts) => svgDocument(charts);
  if (ending === "png") return (charts) => pngOf(svgDocument(charts));
  if (ending === "html") return async (charts, runs) => page(charts, runs);
  throw new TunesmithError("config-invalid", `--out ${path}: not a kind of file that plots are written as`, {
    fix: "end it with .html, .svg or .png",
  });
}

/** One chart per metric, `loss` and `evalLoss` together; one line per run and metric. */
async function chartsOf(store: RunStore, runs: readonly RunRecord[], options: Options): Promise<Chart[]> {
  const charts = new Map<string, MetricLine[]>();
  const known = new Set<string>();
  for (const run of runs) {
    const all = await store.metrics(run.id);
    for (const { name } of all) known.add(name);
    for (const metric of options.metrics ?? ["loss", "evalLoss"]) {
      const own = all.filter(({ name }) => name === metric);
      if (own.length === 0) continue;
      // Evaluations are few and exact already.
      const smoothing = metric.startsWith("eval") ? 0 : options.smoothing;
      const label = runs.length === 1 ? metric : `${labelOf(run, runs)} ${metric}`;
      const line = metricLine(label, own, { smoothing });
      if (line.steps.length === 0) continue;
      const title = chartTitle(metric);
      charts.set(title, [...(charts.get(title) ?? []), line]);
    }
  }
  if (charts.size > 0) return [...charts].map(([title, lines]) => ({ title, lines }));
  const wanted = options.metrics?.join(", ") ?? "loss";
  throw new TunesmithError("config-invalid", `no run has numbers to draw for ${wanted}`, {
    fix: known.size > 0 ? `--metrics, of: ${[...known].sort().join(", ")}` : "these runs recorded no metrics",
  });
}

const labelOf = ({ name, id }: RunRecord, runs: readonly RunRecord[]): string =>
  runs.filter((run) => run.name === name).length > 1 ? id : name;

function page(charts: readonly Chart[], runs: readonly RunRecord[]): string {
  const names = runs.map((run) => labelOf(run, runs));
  const { config, metrics } = compareRuns(runs);
  const configRows =
    runs.length > 1
      ? config
      : Object.entries(runs[0]?.config ?? {}).map(([key, value]) => ({ key, values: [value] }));
  return htmlPage(names.join(", "), charts, [
    {
      title: "Metrics, latest values",
      rows: [
        ["", ...names],
        ...metrics.map(({ key, values }) => [key, ...values.map((value) => shownNumber(value as number))]),
      ],
    },
    {
      title: runs.length > 1 ? "Configuration where it differs" : "Configuration",
      rows: [["", ...names], ...configRows.map(({ key, values }) => [key, ...values.map(shownValue)])],
    },
  ]);
}
