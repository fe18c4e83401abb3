import { basename } from "#io";
import { type Dataset, type Row, splitDataset } from "../../data/index.js";
import { TunesmithError } from "../../errors/index.js";
import type { ModelCardDataset } from "../../training/index.js";
import type { TrainConfig } from "../config/schema.js";
import type { Ui } from "../ui.js";
import { readData } from "../work.js";

export interface ReadRows {
  readonly train: readonly Row[];
  readonly validation: readonly Row[];
  readonly source: Pick<ModelCardDataset, "layout" | "rows" | "dropped">;
}

/** Where the data come from, in a line. */
export const dataName = ({ data }: Pick<TrainConfig, "data">): string => [data].flat().join(", ");

/** The one data file of a run that can read only one. Throws `config-invalid` for several. */
export function oneFile({ data }: Pick<TrainConfig, "data">): string {
  const [path, ...more] = [data].flat();
  if (path !== undefined && more.length === 0) return path;
  throw new TunesmithError("config-invalid", `--data names ${more.length + 1} files, and a series is one`, {
    fix: "train on one of them",
  });
}

/** Rows to train on and rows held out. */
export async function readRows(config: TrainConfig, ui: Ui): Promise<ReadRows> {
  const dataset = joined(await Promise.all([config.data].flat().map((path) => readOne(path, config, ui))));
  const source = {
    layout: dataset.layout,
    rows: dataset.rows.length,
    dropped: dataset.report.dropped.length,
  };
  if (config.validation !== undefined) {
    return { train: dataset.rows, validation: (await readData(config.validation, config)).rows, source };
  }
  if (config.validationShare === 0) return { train: dataset.rows, validation: [], source };
  return { ...splitDataset(dataset, { validation: config.validationShare, seed: config.seed }), source };
}

async function readOne(path: string, config: TrainConfig, ui: Ui): Promise<Dataset> {
  const dataset = await readData(path, config);
  const { dropped, capped } = dataset.report;
  const { guess } = dataset;
  if (guess && guess.confidence < 1)
    ui.note(`read as ${guess.layout}: ${guess.reason} (--layout, --fields; tunesmith data check says more)`);
  if (dropped.length > 0)
    ui.note(
      `${dropped.length} rows or files were left out, such as ${dropped[0]?.row}: ${dropped[0]?.reason}`,
    );
  if (capped) ui.note("the folder holds more text than is read (--max-bytes)");
  return dataset;
}

/** Several files as one dataset, whose rows are of the task that their file is named after unless they say so themselves. */
function joined(all: readonly Dataset[]): Dataset {
  const [first, ...more] = all as [Dataset, ...Dataset[]];
  if (more.length === 0) return first;
  const other = more.find(({ layout }) => layout !== first.layout);
  if (other) {
    throw new TunesmithError(
      "data-invalid",
      `${first.name} is read as ${first.layout}, ${other.name} as ${other.layout}`,
      { fix: "bring the files to one layout, or name it with --layout" },
    );
  }
  const names = taskNames(all.map(({ name }) => name));
  return {
    name: all.map(({ name }) => name).join(", "),
    layout: first.layout,
    rows: all.flatMap(({ rows }, at) =>
      rows.map((row): Row => (row.task === undefined ? { ...row, task: names[at] as string } : row)),
    ),
    report: {
      rows: all.reduce((sum, { report }) => sum + report.rows, 0),
      dropped: all.flatMap(({ report }) => report.dropped),
      bytes: all.reduce((sum, { report }) => sum + report.bytes, 0),
      capped: all.some(({ report }) => report.capped),
    },
  };
}

/** Names of files without folder and ending; with both where two would be the same. */
function taskNames(paths: readonly string[]): string[] {
  const short = paths.map((path) => basename(path).replace(/(\.[A-Za-z0-9]+)+$/, ""));
  return new Set(short).size === short.length ? short : [...paths];
}
