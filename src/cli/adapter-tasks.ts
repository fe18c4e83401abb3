import { z } from "zod";
import { fileExists, joinPath, readText, writeFileAtomic } from "#io";
import { TunesmithError } from "../errors/index.js";

/** Beside an adapter of several tasks: their names, by number. */
const fileOf = (folder: string) => joinPath(folder, "tasks.json");
const fileSchema = z.object({ tasks: z.array(z.string()) });

/** Writes beside the result which task has which number. */
export async function recordTasks(tasks: readonly string[] | undefined, out: string): Promise<void> {
  if (tasks) await writeFileAtomic(fileOf(out), `${JSON.stringify({ tasks }, undefined, 2)}\n`);
}

/** A task of no adapter is a mistake. Throws `config-invalid`. */
export function checkAdapterTask({
  adapter,
  adapterTask,
}: {
  readonly adapter?: string | undefined;
  readonly adapterTask?: string | undefined;
}): void {
  if (adapterTask === undefined || adapter !== undefined) return;
  throw new TunesmithError("config-invalid", "--adapter-task does nothing without --adapter", {
    fix: "name the adapter's folder, or leave it out",
  });
}

/** The number of an adapter's task that is given by name or number. Throws `config-invalid` naming the tasks there are. */
export async function taskNumber(folder: string, wanted: string): Promise<number> {
  const names = await namesIn(fileOf(folder));
  const at = names.indexOf(wanted);
  if (at >= 0) return at;
  if (/^\d+$/.test(wanted)) return Number(wanted);
  throw new TunesmithError("config-invalid", `--adapter-task: the adapter has no task '${wanted}'`, {
    fix: names.length > 0 ? `its tasks: ${names.join(", ")}` : "its tasks have numbers only, from 0",
  });
}

async function namesIn(path: string): Promise<readonly string[]> {
  if (!(await fileExists(path))) return [];
  try {
    return fileSchema.parse(JSON.parse(await readText(path))).tasks;
  } catch (cause) {
    throw new TunesmithError("file-corrupt", `${path} holds no names of tasks`, {
      fix: "train again, or delete the file and give the task's number",
      details: { cause: String(cause) },
    });
  }
}
