import { dirname, env, fileExists, joinPath, makeDir, writeFileAtomic } from "#io";
import { TunesmithError } from "../../errors/index.js";
import type { RunStore } from "../../training/index.js";
import { isPostgres, openRunStore } from "./open.js";

export const DEFAULT_STORE = ".tunesmith/runs.sqlite";

/** What `--track` says, the variable TUNESMITH_TRACK, or a file of the current folder. */
export const storeLocation = (given: string | undefined): string =>
  given ?? (env("TUNESMITH_TRACK") || DEFAULT_STORE);

/** Opens a store for reading: one that is not there is an error, not an empty list. */
export async function openExisting(given: string | undefined): Promise<RunStore> {
  const location = storeLocation(given);
  if (!isPostgres(location) && !/:\/\//.test(location) && !(await fileExists(location))) {
    throw new TunesmithError("file-not-found", `there is no database of runs ${location}`, {
      fix: "train makes one in the folder it is called in; name another with --track",
    });
  }
  return openRunStore(location);
}

/** Opens a store for a run. The folder of the default one keeps itself out of version control. */
export async function openForRun(given: string | undefined): Promise<RunStore> {
  const location = storeLocation(given);
  if (location === DEFAULT_STORE) {
    const folder = dirname(location);
    await makeDir(folder);
    const ignore = joinPath(folder, ".gitignore");
    if (!(await fileExists(ignore))) await writeFileAtomic(ignore, "*\n");
  }
  return openRunStore(location);
}

/** Runs a task with a store and closes it. */
export async function withStore<T>(
  given: string | undefined,
  task: (store: RunStore) => Promise<T>,
): Promise<T> {
  const store = await openExisting(given);
  try {
    return await task(store);
  } finally {
    await store.close();
  }
}

/** For messages and saved configurations. */
export function withoutPassword(url: string): string {
  let parsed: URL;
  try {
    parsed = new URL(url);
  } catch (cause) {
    throw new TunesmithError("config-invalid", "the PostgreSQL address is not a URL", {
      cause,
      fix: "write it as postgres://user@host:5432/database",
    });
  }
  parsed.password = "";
  for (const name of ["password", "sslpassword"]) parsed.searchParams.delete(name);
  return parsed.href;
}
