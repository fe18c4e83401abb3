import { createHash } from "node:crypto";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { type LoadDatasetOptions, loadDataset } from "./index.js";

const ID = "tiny/texts";
const COMMIT = "0123456789abcdef0123456789abcdef01234567";
const CONVERTED = "89abcdef0123456789abcdef0123456789abcdef";

/** Commit of a revision, and the files of a commit. */
type Repo = { revisions: Record<string, string>; files: Record<string, Record<string, Buffer>> };

function answer(request: IncomingMessage, response: ServerResponse, repo: Repo, reads: string[]): unknown {
  const json = (value: unknown, status = 200) =>
    response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(value));
  const path = decodeURIComponent(new URL(String(request.url), "http://hub").pathname);
  const [, revision] = new RegExp(`^/api/datasets/${ID}/revision/(.+)$`).exec(path) ?? [];
  const sha = revision === undefined ? undefined : repo.revisions[revision];
  if (sha) return json({ _id: "1", id: ID, sha, lastModified: "2025-01-01" });
  const [, commit = ""] = new RegExp(`^/api/datasets/${ID}/tree/(\\w+)`).exec(path) ?? [];
  const listed = repo.files[commit];
  if (listed) return json(Object.entries(listed).map(([name, bytes]) => entry(name, bytes)));
  const [, from = "", name = ""] = new RegExp(`^/datasets/${ID}/resolve/(\\w+)/(.+)$`).exec(path) ?? [];
  const content = repo.files[from]?.[name];
  if (!content) return json({ error: "Repository not found" }, 404);
  const range = /bytes=(\d+)-(\d+)/.exec(request.headers.range ?? "");
  const [start, end] = range ? [Number(range[1]), Number(range[2]) + 1] : [0, content.length];
  reads.push(name);
  response.writeHead(range ? 206 : 200, {
    etag: '"x"',
    "content-length": end - start,
    ...(range ? { "content-range": `bytes ${start}-${end - 1}/${content.length}` } : {}),
  });
  return response.end(content.subarray(start, end));
}

function entry(path: string, bytes: Buffer) {
  const oid = createHash("sha1").update(`blob ${bytes.length}\0`).update(bytes).digest("hex");
  return { type: "file", path, size: bytes.length, oid };
}

let server: Server;
let repo: Repo;
let reads: string[] = [];
let cacheDir = "";
let options: LoadDatasetOptions = {};
beforeEach(async () => {
  const parquet = await readFile("fixtures/data/text-zstd.parquet");
  repo = {
    revisions: { main: COMMIT, "refs/convert/parquet": CONVERTED },
    files: {
      [COMMIT]: {
        "README.md": Buffer.from("about"),
        "data/train.jsonl": Buffer.from('{"text":"one"}\n{"text":"two"}\n'),
        "data/test.jsonl": Buffer.from('{"text":"three"}\n'),
      },
      [CONVERTED]: {
        "default/train/0000.parquet": parquet,
        "default/train/0001.parquet": parquet,
        "default/test/0000.parquet": parquet,
        "small/partial-train/0000.parquet": parquet,
      },
    },
  };
  reads = [];
  cacheDir = await mkdtemp(join(tmpdir(), "tunesmith-hub-data-"));
  server = createServer((request, response) => answer(request, response, repo, reads));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  options = { cacheDir, hubUrl: `http://127.0.0.1:${(server.address() as AddressInfo).port}` };
});
afterEach(async () => {
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
  await rm(cacheDir, { recursive: true });
});

test("the converted Parquet files of a split, in order; from the cache the second time and offline", async () => {
  const dataset = await loadDataset(ID, options);
  expect(dataset).toMatchObject({ name: ID, layout: "classification", report: { rows: 100 } });
  expect(new Set(reads)).toEqual(new Set(["default/train/0000.parquet", "default/train/0001.parquet"]));
  reads.length = 0;
  expect((await loadDataset(ID, options)).rows).toHaveLength(100);
  expect((await loadDataset(ID, { ...options, offline: true })).rows).toHaveLength(100);
  expect(reads).toEqual([]);
  // Another split was never asked for.
  await expect(loadDataset(ID, { ...options, split: "test", offline: true })).rejects.toMatchObject({
    code: "offline",
  });
  expect((await loadDataset(ID, { ...options, split: "test" })).rows).toHaveLength(50);
  expect((await loadDataset(ID, { ...options, config: "small" })).rows).toHaveLength(50);
});

test("without converted files, and for a revision, the data files themselves", async () => {
  const main = await loadDataset(`${ID}@main`, options);
  expect(main.rows).toEqual([
    { kind: "text", text: "one" },
    { kind: "text", text: "two" },
  ]);
  delete repo.revisions["refs/convert/parquet"];
  expect((await loadDataset(ID, { ...options, split: "test" })).rows).toEqual([
    { kind: "text", text: "three" },
  ]);
});

test("what is not there is named", async () => {
  await expect(loadDataset(ID, { ...options, split: "dev" })).rejects.toThrow(
    /no split 'dev'[\s\S]*train, test/,
  );
  await expect(loadDataset(ID, { ...options, config: "big" })).rejects.toThrow(
    /no config 'big'[\s\S]*default, small/,
  );
  await expect(loadDataset("tiny/other", options)).rejects.toMatchObject({ code: "file-not-found" });
  await expect(loadDataset("missing/file.jsonl", options)).rejects.toMatchObject({ code: "file-not-found" });
  repo.files[CONVERTED] = { "README.md": Buffer.from("about") };
  await expect(loadDataset(ID, options)).rejects.toMatchObject({ code: "format-unsupported" });
  const dead = { ...options, hubUrl: "http://127.0.0.1:9" };
  await expect(loadDataset(ID, dead)).rejects.toMatchObject({ code: "offline" });
});

test("a damaged file is refused", async () => {
  const listed = repo.files[CONVERTED] as Record<string, Buffer>;
  const path = "default/test/0000.parquet";
  const honest = entry(path, listed[path] as Buffer);
  const damaged = Buffer.from(listed[path] as Buffer);
  damaged[100] = (damaged[100] ?? 0) ^ 1;
  listed[path] = damaged;
  server.removeAllListeners("request");
  server.on("request", (request, response) => {
    if (!request.url?.includes("/tree/")) return answer(request, response, repo, reads);
    return response.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify([honest]));
  });
  await expect(loadDataset(ID, { ...options, split: "test" })).rejects.toMatchObject({
    code: "checksum-mismatch",
  });
});
