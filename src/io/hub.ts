import { sha1 } from "@noble/hashes/legacy.js";
import { bytesToHex } from "@noble/hashes/utils.js";
import {
  appendBytes,
  cacheDir,
  dirname,
  env,
  fileExists,
  joinPath,
  listDir,
  makeDir,
  openFile,
  readFile,
  readText,
  remove,
  sha256,
  sourceChunks,
  stat,
  writeFileAtomic,
} from "#io";
import { TunesmithError } from "../errors/index.js";

export interface HubOptions {
  /** Branch, tag or commit. Default `main`. */
  readonly revision?: string;
  /** Folder that holds the downloads. Default: `hub` in the cache folder (`TUNESMITH_CACHE`). */
  readonly cacheDir?: string;
  /** Default `HF_ENDPOINT`, else `https://huggingface.co`. */
  readonly hubUrl?: string;
  /** For private and gated models. Default `HF_TOKEN`. */
  readonly token?: string;
  /** Never ask the network. Default: whether `TUNESMITH_OFFLINE` or `HF_HUB_OFFLINE` is set (not `0`). */
  readonly offline?: boolean;
  /** Called as bytes arrive. */
  readonly onProgress?: (progress: DownloadProgress) => void;
  readonly signal?: AbortSignal;
}

export interface DownloadProgress {
  readonly file: string;
  /** Bytes of this file that are here, and that it has. */
  readonly loaded: number;
  readonly total: number;
}

/** A file of a repository. */
export interface RemoteFile {
  readonly path: string;
  readonly size: number;
  /** SHA-256 of the content (large files), or the git object id (SHA-1 over header and content). */
  readonly sha256: string | undefined;
  readonly gitId: string | undefined;
}

/** A repository and what is wanted of it. */
export interface HubRepo {
  readonly type: "model" | "dataset";
  /** `organisation/name` */
  readonly id: string;
  /** The files to download. May throw when there is nothing to choose. */
  choose(files: readonly RemoteFile[]): readonly RemoteFile[];
  /** Whether a snapshot of Hugging Face's own cache, given its folder and the names in it, has what is wanted. */
  isComplete(folder: string, names: readonly string[]): Promise<boolean>;
  /** Tells what was chosen from other choices of one repository. Default: there is one choice. */
  readonly choice?: string;
}

/** What one download works with. */
interface Job {
  readonly repo: HubRepo;
  readonly id: string;
  /** The client's name of the repository. */
  readonly name: { readonly type: "model" | "dataset"; readonly name: string };
  readonly revision: string;
  readonly folder: string;
  readonly hubUrl: string;
  readonly options: HubOptions;
  readonly access: { accessToken?: string };
}

const COMMIT = /^[0-9a-f]{40}$/;
/** Lists the verified files of a folder; there only when all of them are. */
const completeFile = ({ repo }: Job) =>
  repo.choice === undefined
    ? "download-complete.json"
    : `download-complete-${encodeURIComponent(repo.choice)}.json`;
/** Paths of the server's stay inside our folder. */
const SAFE_PATH = /^[A-Za-z0-9_][\w.=-]*(\/[A-Za-z0-9_][\w.=-]*)*$/;
const ATTEMPTS = 3;

/**
 * Downloads the wanted files of a repository of the hub, unless they are here already, and returns their folder. An
 * interrupted download continues where it stopped; every file is checked against the hub's checksum (SHA-256 of large
 * files, git object id of small ones). A snapshot in Hugging Face's own cache is used as it is. Without a connection the
 * newest snapshot that is here is used.
 *
 * Throws `offline` (no connection and no snapshot), `file-not-found` (no such repository or revision, or not permitted),
 * `checksum-mismatch`, `cancelled`, and what `repo.choose` throws.
 */
export async function downloadRepo(repo: HubRepo, options: HubOptions = {}): Promise<string> {
  const job = jobOf(repo, options);
  const known = await snapshotHere(job, COMMIT.test(job.revision) ? job.revision : undefined);
  if (known && COMMIT.test(job.revision)) return known;
  if (options.offline ?? isOffline())
    return known ?? (await snapshotOfRevision(job)) ?? noConnection(job, undefined);
  let commit: string;
  try {
    commit = await commitOf(job);
  } catch (error) {
    const code = error instanceof TunesmithError ? error.code : undefined;
    const local = code === "offline" ? await snapshotOfRevision(job) : undefined;
    if (local) return local;
    throw error;
  }
  const here = await snapshotHere(job, commit);
  if (!here) await download(job, commit);
  await makeDir(joinPath(job.folder, "refs"));
  await writeFileAtomic(refPath(job), commit);
  return here ?? joinPath(job.folder, commit);
}

function jobOf(repo: HubRepo, options: HubOptions): Job {
  const { id, type } = repo;
  const root = options.cacheDir ?? joinPath(cacheDir(), "hub");
  const token = options.token ?? env("HF_TOKEN");
  return {
    repo,
    id,
    name: { type, name: id },
    options,
    revision: options.revision ?? "main",
    folder: joinPath(root, cacheName(repo)),
    hubUrl: (options.hubUrl ?? env("HF_ENDPOINT") ?? "https://huggingface.co").replace(/\/+$/, ""),
    access: token ? { accessToken: token } : {},
  };
}

const cacheName = ({ type, id }: HubRepo) => `${type}s--${id.replaceAll("/", "--")}`;

function isOffline(): boolean {
  return ["TUNESMITH_OFFLINE", "HF_HUB_OFFLINE"].some((name) => !["0", "", undefined].includes(env(name)));
}

const refPath = (job: Job) => joinPath(job.folder, "refs", encodeURIComponent(job.revision));

/** A complete snapshot of a commit: downloaded by us, or by Hugging Face's libraries. */
async function snapshotHere(job: Job, commit: string | undefined): Promise<string | undefined> {
  if (!commit) return undefined;
  const own = joinPath(job.folder, commit);
  if (await fileExists(joinPath(own, completeFile(job)))) return own;
  const theirs = joinPath(sharedFolder(job), "snapshots", commit);
  if (!(await fileExists(theirs))) return undefined;
  return (await job.repo.isComplete(theirs, await listDir(theirs))) ? theirs : undefined;
}

/** The last snapshot that this revision was known to be. */
async function snapshotOfRevision(job: Job): Promise<string | undefined> {
  const theirs = joinPath(sharedFolder(job), "refs", ...job.revision.split("/"));
  for (const path of [refPath(job), theirs]) {
    const commit = (await fileExists(path)) ? (await readText(path)).trim() : "";
    const found = COMMIT.test(commit) ? await snapshotHere(job, commit) : undefined;
    if (found) return found;
  }
  return undefined;
}

/** The repository's folder in Hugging Face's cache. */
function sharedFolder(job: Job): string {
  const home =
    env("HF_HOME") ??
    joinPath(
      env("XDG_CACHE_HOME") ?? joinPath(env("HOME") ?? env("USERPROFILE") ?? ".", ".cache"),
      "huggingface",
    );
  const root = env("HF_HUB_CACHE") ?? joinPath(home, "hub");
  return joinPath(root, cacheName(job.repo));
}

/** Loaded on demand: programs that open local models never pay for the client, nor do bundles for the browser. */
const hub = () => import("@huggingface/hub");

async function commitOf(job: Job): Promise<string> {
  const { modelInfo, datasetInfo } = await hub();
  const { id: name, revision, hubUrl, access } = job;
  const query = {
    name,
    revision,
    hubUrl,
    additionalFields: ["sha" as const],
    fetch: fetcher(job),
    ...access,
  };
  const info = await asking(job, job.repo.type === "model" ? modelInfo(query) : datasetInfo(query));
  return String(info.sha);
}

async function download(job: Job, commit: string): Promise<void> {
  const files = job.repo.choose(await filesOf(job, commit));
  const folder = joinPath(job.folder, commit);
  await makeDir(folder);
  for (const file of files) {
    const path = joinPath(folder, file.path);
    await makeDir(dirname(path));
    await downloadFile(job, commit, file, path);
  }
  await writeFileAtomic(
    joinPath(folder, completeFile(job)),
    `${JSON.stringify({ id: job.id, commit, files }, undefined, 2)}\n`,
  );
}

async function filesOf(job: Job, commit: string): Promise<RemoteFile[]> {
  const { listFiles } = await hub();
  const { name: repo, hubUrl, access } = job;
  const files: RemoteFile[] = [];
  const recursive = job.repo.type === "dataset";
  const collect = async () => {
    const query = { repo, revision: commit, hubUrl, recursive, fetch: fetcher(job), ...access };
    for await (const { type, path, size, lfs, oid } of listFiles(query)) {
      if (type !== "file" || !SAFE_PATH.test(path)) continue;
      files.push({ path, size: lfs?.size ?? size, sha256: lfs?.oid, gitId: oid });
    }
  };
  await asking(job, collect());
  return files;
}

async function downloadFile(job: Job, commit: string, file: RemoteFile, path: string): Promise<void> {
  for (let attempt = 1; ; attempt++) {
    try {
      await fetchRest(job, commit, file, path);
      break;
    } catch (error) {
      const retry = error instanceof TunesmithError && error.code === "offline" && attempt < ATTEMPTS;
      if (!retry) throw error;
      await new Promise((resolve) => setTimeout(resolve, 200 * attempt));
    }
  }
  await verify(file, path);
}

const sizeOf = async (path: string) => ((await fileExists(path)) ? (await stat(path)).size : 0);

/** Appends what is missing of a file. */
async function fetchRest(job: Job, commit: string, file: RemoteFile, path: string): Promise<void> {
  let loaded = await sizeOf(path);
  if (loaded > file.size) {
    await remove(path);
    loaded = 0;
  }
  if (loaded === file.size) {
    if (file.size === 0) await writeFileAtomic(path, "");
    return;
  }
  const { downloadFile: open } = await hub();
  const { name: repo, hubUrl, access } = job;
  const request = open({ repo, path: file.path, revision: commit, hubUrl, fetch: fetcher(job), ...access });
  const blob = await asking(job, request);
  if (!blob)
    throw new TunesmithError("file-not-found", `${job.id}: ${file.path} is gone from the hub`, {
      fix: "try again later",
    });
  const report = (bytes: number) => {
    loaded += bytes;
    job.options.onProgress?.({ file: file.path, loaded, total: file.size });
  };
  await asking(job, appendBytes(path, streamed(blob.slice(loaded).stream(), report)));
  if ((await sizeOf(path)) >= file.size) return;
  throw noConnectionError(job, new Error(`${file.path} ended after ${loaded} of ${file.size} bytes`));
}

async function* streamed(stream: ReadableStream<Uint8Array>, report: (bytes: number) => void) {
  const reader = stream.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    yield value;
    report(value.byteLength);
  }
}

async function verify(file: RemoteFile, path: string): Promise<void> {
  const expected = file.sha256 ?? file.gitId;
  const actual = file.sha256 ? await contentHash(path) : await gitObjectId(path);
  if (expected === undefined || actual === expected) return;
  await remove(path);
  throw new TunesmithError(
    "checksum-mismatch",
    `${path}: the download is damaged (${actual}, the hub says ${expected})`,
    {
      fix: "the file was removed: run again to download it anew; if it repeats, a proxy alters the transfer",
      details: { path, expected, actual },
    },
  );
}

async function contentHash(path: string): Promise<string> {
  const source = await openFile(path);
  try {
    return await sha256(sourceChunks(source));
  } finally {
    await source.close();
  }
}

/** git hashes `blob SIZE\0` and the content. */
async function gitObjectId(path: string): Promise<string> {
  const content = await readFile(path);
  const head = new TextEncoder().encode(`blob ${content.byteLength}\0`);
  return bytesToHex(sha1.create().update(head).update(content).digest());
}

const fetcher =
  ({ options: { signal } }: Job): typeof fetch =>
  (input, init) =>
    fetch(input, signal ? { ...init, signal } : init);

/** Turns what the client throws into typed errors. */
async function asking<T>(job: Job, work: Promise<T>): Promise<T> {
  try {
    return await work;
  } catch (error) {
    if (error instanceof TunesmithError) throw error;
    if (job.options.signal?.aborted) {
      throw new TunesmithError("cancelled", `${job.id}: download cancelled`, {
        fix: "run again: it continues where it stopped",
        cause: error,
      });
    }
    const status = (error as { statusCode?: number }).statusCode;
    if (status === undefined || status >= 500) throw noConnectionError(job, error);
    throw refused(job, status, error);
  }
}

function refused(job: Job, status: number, cause: unknown): TunesmithError {
  const denied = status === 401 || status === 403;
  return new TunesmithError(
    "file-not-found",
    `${job.id} (revision ${job.revision}): ${job.hubUrl} answered ${status}`,
    {
      fix: denied
        ? "check the spelling; for a private or gated repository accept its terms and set HF_TOKEN"
        : "check the spelling of the name and its revision; a local path must exist and may start with ./",
      cause,
      details: { id: job.id, revision: job.revision, status },
    },
  );
}

const noConnection = (job: Job, cause: unknown): never => {
  throw noConnectionError(job, cause);
};

function noConnectionError(job: Job, cause: unknown): TunesmithError {
  const why = cause instanceof Error ? ` (${cause.message})` : " (offline mode is on)";
  return new TunesmithError(
    "offline",
    `${job.id}: not in the cache, and ${job.hubUrl} was not reached${why}`,
    {
      fix:
        cause === undefined
          ? `unset TUNESMITH_OFFLINE and HF_HUB_OFFLINE to download it, or copy it to a folder and give its path`
          : `connect and run again (a download continues where it stopped), set HF_ENDPOINT to a mirror, or give the path of a local copy`,
      cause,
      details: { id: job.id, revision: job.revision, cache: job.folder },
    },
  );
}
