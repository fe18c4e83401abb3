import { dirname, fileExists, joinPath, listDir, readText, stat } from "#io";
import { readRecords } from "../../data/readers/index.js";
import { formatOf } from "../../data/stream.js";
import { TunesmithError } from "../../errors/index.js";
import type { HarnessTask } from "./task.js";
import type { Doc } from "./templates.js";

/** Names that stand for a file format; `data_files` says which files. */
const BUILDERS = new Set(["json", "csv", "text", "parquet"]);

/** Rows of a task's split, read when first asked for. */
export interface TaskData {
  split(name: string): Promise<readonly Doc[]>;
}

/**
 * The data of a task: `dataset_path: json` (or `csv`, `parquet`, `text`) with `dataset_kwargs.data_files`, a data file,
 * or a folder with files named after splits (`test.jsonl`). Paths are relative to the task's file, else to the current
 * folder.
 *
 * Reading throws `file-not-found`, `data-empty`, `data-invalid` as `readRecords`; `config-invalid` for an unknown split;
 * `format-unsupported` for a dataset of the hub.
 */
export function taskData(task: HarnessTask): TaskData {
  const known = new Map<string, Promise<readonly Doc[]>>();
  return {
    split(name) {
      const rows = known.get(name) ?? readSplit(task, name);
      known.set(name, rows);
      return rows;
    },
  };
}

async function readSplit(task: HarnessTask, split: string): Promise<readonly Doc[]> {
  const files = await filesOf(task, split);
  const rows: Doc[] = [];
  for (const file of files) {
    // What is no object (a line of text) gets the name that the datasets library gives it.
    for (const value of await readRows(file, task.dataset_path))
      rows.push(isDoc(value) ? value : { text: value });
  }
  if (rows.length > 0) return rows;
  throw new TunesmithError("data-empty", `task '${task.task}': split '${split}' has no rows`, {
    fix: `look into ${files.join(", ")}`,
  });
}

async function filesOf(task: HarnessTask, split: string): Promise<string[]> {
  const { dataset_path: path, dataset_kwargs: { data_files: given, data_dir: folder } = {} } = task;
  if (given !== undefined && (BUILDERS.has(path) || path === "")) {
    const bySplit = typeof given === "string" || Array.isArray(given) ? { train: given } : given;
    const files = bySplit[split];
    if (files === undefined) throw noSplit(task, split, Object.keys(bySplit));
    return Promise.all([files].flat().map((file) => locate(task, joined(folder, file))));
  }
  const place = BUILDERS.has(path) && folder !== undefined ? folder : path;
  const found = await locate(task, place).catch(() => undefined);
  if (found === undefined) {
    throw new TunesmithError("format-unsupported", `task '${task.task}': no file or folder '${place}'`, {
      fix: "download the dataset, and set dataset_path: json with dataset_kwargs: { data_files: { test: FILE } }",
    });
  }
  if (!(await stat(found)).isDirectory) return [found];
  const inside = (await listDir(found)).sort();
  const files = inside.filter((name) => name.replace(/[.-].*$/, "") === split);
  if (files.length > 0) return files.map((name) => joinPath(found, name));
  throw noSplit(task, split, inside);
}

const joined = (folder: string | undefined, file: string) =>
  folder === undefined ? file : joinPath(folder, file);

const noSplit = (task: HarnessTask, split: string, known: readonly string[]) =>
  new TunesmithError("config-invalid", `task '${task.task}': no split '${split}'`, {
    fix: `its data has ${known.join(", ") || "none"}`,
  });

async function locate(task: HarnessTask, path: string): Promise<string> {
  const beside = task.origin === undefined ? path : joinPath(dirname(task.origin), path);
  const absolute = /^([/\\]|[a-z]:|\w+:\/\/)/i.test(path);
  if (!absolute && (await exists(beside))) return beside;
  if (await exists(path)) return path;
  throw new TunesmithError("file-not-found", `task '${task.task}': no data file ${path}`, {
    fix: "give a path relative to the task's file",
  });
}

async function exists(path: string): Promise<boolean> {
  return (
    (await fileExists(path)) ||
    stat(path).then(
      () => true,
      () => false,
    )
  );
}

/** The rows of a data file; lines of a text file. `builder` is `text` for files that are text whatever their name. */
export async function readRows(path: string, builder: string): Promise<unknown[]> {
  const byName = formatOf(path);
  if (builder === "text" || byName === undefined) {
    const lines = (await readText(path)).split(/\r?\n/);
    return lines.at(-1) === "" ? lines.slice(0, -1) : lines;
  }
  const rows: unknown[] = [];
  for await (const batch of readRecords(path, byName)) for (const { value } of batch) rows.push(value);
  return rows;
}

const isDoc = (value: unknown): value is Doc =>
  typeof value === "object" && value !== null && !Array.isArray(value);
