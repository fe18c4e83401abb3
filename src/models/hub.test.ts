import { createHash } from "node:crypto";
import { cp, mkdir, mkdtemp, readdir, readFile, stat, writeFile } from "node:fs/promises";
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { TunesmithError } from "../errors/index.js";
import { downloadModel, type HubOptions } from "./hub.js";
import { loadModel } from "./load.js";

const MODEL = new URL("../../fixtures/models/llama/", import.meta.url).pathname;
const COMMIT = "0123456789abcdef0123456789abcdef01234567";
const ID = "tiny/llama";
const WEIGHTS = "model.safetensors";

/** A server with the few endpoints of the hub that a download needs. */
interface FakeHub {
  readonly url: string;
  /** `METHOD path range` of every request for content. */
  readonly reads: string[];
  /** Breaks the connection after so many bytes of the weights, once per entry. */
  cuts: number[];
  damage: boolean;
  close(): Promise<void>;
}

async function startHub(): Promise<FakeHub> {
  const files = new Map<string, Buffer>();
  for (const name of ["config.json", WEIGHTS]) files.set(name, await readFile(join(MODEL, name)));
  files.set("README.md", Buffer.from("not wanted"));
  files.set("pytorch_model.bin", Buffer.from("not wanted"));
  const state = { reads: [] as string[], cuts: [] as number[], damage: false };
  const server: Server = createServer((request, response) => answer(request, response, files, state));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return Object.assign(state, {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    close: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  });
}

function answer(
  request: IncomingMessage,
  response: ServerResponse,
  files: Map<string, Buffer>,
  state: Pick<FakeHub, "reads" | "cuts" | "damage">,
): unknown {
  const json = (value: unknown, status = 200) => {
    return response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(value));
  };
  const path = new URL(String(request.url), "http://hub").pathname;
  if (path === `/api/models/${ID}/revision/main`)
    return json({ _id: "1", id: ID, sha: COMMIT, lastModified: "2025-01-01" });
  if (path === `/api/models/${ID}/tree/${COMMIT}`)
    return json([...files].map(([name, bytes]) => entry(name, bytes)));
  const name = path.startsWith(`/${ID}/resolve/${COMMIT}/`) ? path.slice(path.lastIndexOf("/") + 1) : "";
  const content = files.get(name);
  if (!content) return json({ error: "Repository not found" }, 404);
  const bytes =
    state.damage && name === WEIGHTS ? Buffer.concat([content.subarray(0, -1), Buffer.of(77)]) : content;
  const range = /bytes=(\d+)-(\d+)/.exec(request.headers.range ?? "");
  const [from, to] = range ? [Number(range[1]), Number(range[2]) + 1] : [0, bytes.length];
  state.reads.push(`${name} ${from}-${to}`);
  response.writeHead(range ? 206 : 200, {
    etag: '"x"',
    "content-length": to - from,
    ...(range ? { "content-range": `bytes ${from}-${to - 1}/${bytes.length}` } : {}),
  });
  const probe = to - from === 1;
  const cut = name === WEIGHTS && !probe ? state.cuts.shift() : undefined;
  if (cut === undefined) return response.end(bytes.subarray(from, to));
  return response.write(bytes.subarray(from, from + cut), () => setTimeout(() => response.destroy(), 50));
}

function entry(path: string, bytes: Buffer) {
  const git = createHash("sha1").update(`blob ${bytes.length}\0`).update(bytes).digest("hex");
  if (path !== WEIGHTS) return { type: "file", path, size: bytes.length, oid: git };
  const oid = createHash("sha256").update(bytes).digest("hex");
  return {
    type: "file",
    path,
    size: bytes.length,
    oid: git,
    lfs: { oid, size: bytes.length, pointerSize: 130 },
  };
}

const failure = async (promise: Promise<unknown>): Promise<TunesmithError> => {
  const error = await promise.then(
    () => undefined,
    (cause: unknown) => cause,
  );
  expect(error).toBeInstanceOf(TunesmithError);
  return error as TunesmithError;
};

describe("downloads", () => {
  let hub: FakeHub;
  let options: HubOptions;
  beforeEach(async () => {
    hub = await startHub();
    const cacheDir = await mkdtemp(join(tmpdir(), "hub-"));
    options = { hubUrl: hub.url, cacheDir };
    vi.stubEnv("HF_HUB_CACHE", join(cacheDir, "shared"));
  });
  afterEach(async () => {
    vi.unstubAllEnvs();
    await hub.close();
  });

  test("a hub id loads, from the cache the second time, and offline", async () => {
    const progress: number[] = [];
    const model = await loadModel(ID, { ...options, onProgress: ({ loaded }) => progress.push(loaded) });
    expect(model.architecture).toBe("llama");
    expect(progress.at(-1)).toBe((await stat(join(MODEL, WEIGHTS))).size);
    const folder = await downloadModel(ID, options);
    expect((await readdir(folder)).sort()).toEqual(["config.json", "download-complete.json", WEIGHTS]);
    const reads = hub.reads.length;
    await loadModel(`${ID}@${COMMIT}`, options);
    await loadModel(ID, { ...options, offline: true });
    vi.stubEnv("HF_HUB_OFFLINE", "1");
    await loadModel(ID, options);
    expect(hub.reads.length).toBe(reads);
  });

  test("without a connection the newest snapshot here is used", async () => {
    await downloadModel(ID, options);
    await hub.close();
    expect((await loadModel(ID, options)).sizes.layers).toBe(2);
  });

  test("an interrupted download continues where it stopped", async () => {
    hub.cuts = [20_000, 10_000, 5_000];
    const error = await failure(downloadModel(ID, options));
    expect(error.code).toBe("offline");
    expect(error.fix).toMatch(/continues where it stopped/);
    hub.reads.length = 0;
    const folder = await downloadModel(ID, options);
    const size = (await stat(join(MODEL, WEIGHTS))).size;
    expect(hub.reads).toContain(`${WEIGHTS} 35000-${size}`);
    expect(hub.reads.some((read) => read.startsWith("config.json"))).toBe(false);
    expect(await readFile(join(folder, WEIGHTS))).toEqual(await readFile(join(MODEL, WEIGHTS)));
  });

  test("a damaged download is refused and removed", async () => {
    hub.damage = true;
    const error = await failure(downloadModel(ID, options));
    expect(error.code).toBe("checksum-mismatch");
    hub.damage = false;
    const folder = await downloadModel(ID, options);
    expect(await readFile(join(folder, WEIGHTS))).toEqual(await readFile(join(MODEL, WEIGHTS)));
  });

  test("a snapshot in Hugging Face's own cache is used as it is", async () => {
    const shared = join(String(process.env.HF_HUB_CACHE), "models--tiny--llama");
    await cp(MODEL, join(shared, "snapshots", COMMIT), { recursive: true });
    await mkdir(join(shared, "refs"));
    await writeFile(join(shared, "refs", "main"), COMMIT);
    expect((await loadModel(ID, { ...options, offline: true })).origin).toContain("shared");
    expect((await loadModel(ID, options)).origin).toContain("shared");
    expect(hub.reads).toEqual([]);
  });

  test("missing models and missing connections say what to do", async () => {
    const unknown = await failure(loadModel("tiny/none", options));
    expect(unknown.code).toBe("file-not-found");
    expect(unknown.fix).toMatch(/spelling/);
    const offline = await failure(loadModel(ID, { ...options, offline: true }));
    expect(offline.code).toBe("offline");
    expect(offline.fix).toMatch(/HF_HUB_OFFLINE/);
    await hub.close();
    const unreachable = await failure(loadModel(ID, options));
    expect(unreachable.code).toBe("offline");
    expect(unreachable.fix).toMatch(/HF_ENDPOINT/);
    const signal = AbortSignal.abort();
    expect((await failure(loadModel(ID, { ...options, signal }))).code).toBe("cancelled");
  });
});
