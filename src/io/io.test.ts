import { spawnSync } from "node:child_process";
import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, test, vi } from "vitest";
import { memoryLocks, memoryStorage } from "../../test/support/memory-opfs.js";
import { TunesmithError } from "../errors/index.js";
import * as browser from "./browser.js";
import { fileError } from "./file-error.js";
import * as node from "./node.js";
import * as posix from "./path.js";
import type { Io } from "./types.js";

const sides: Record<"node" | "browser", Io> = { node, browser };

async function codeOf(promise: Promise<unknown>): Promise<string> {
  const error = await promise.then(
    () => undefined,
    (cause: unknown) => cause,
  );
  if (!(error instanceof TunesmithError)) throw new Error(`expected a TunesmithError, got ${String(error)}`);
  expect(error.fix).toBeTruthy();
  return error.code;
}

test.skipIf(process.platform !== "linux")("a folder that the system does not let be made", async () => {
  // Node's own recursion tries again for ever.
  expect(await codeOf(node.makeDir("/proc/none/such"))).toMatch(/^file-/);
});

test("both sides export the same functions", () => {
  expect(Object.keys(browser).sort()).toEqual(Object.keys(node).sort());
});

describe.each(Object.entries(sides))("%s", (_side, io) => {
  let folder = "";
  beforeEach(async () => {
    vi.stubGlobal("navigator", {
      storage: memoryStorage(),
      locks: memoryLocks(),
      hardwareConcurrency: 3,
    });
    folder = await io.tempDir();
    return async () => {
      await io.remove(folder);
      vi.unstubAllGlobals();
    };
  });

  test("writes, reads, lists, copies, appends and removes", async () => {
    const nested = io.joinPath(folder, "a", "b");
    await io.makeDir(nested);
    await io.makeDir(nested);
    const path = io.joinPath(nested, "x.txt");
    await io.writeFileAtomic(path, "\ufeffhé");
    expect(await io.readText(path)).toBe("hé");
    expect(await io.stat(path)).toMatchObject({ size: 6, isDirectory: false });
    expect(await io.stat(nested)).toMatchObject({ size: 0, isDirectory: true });
    await io.copyFile(path, io.joinPath(nested, "w.txt"));
    await io.appendText(path, "llo");
    await io.appendText(io.joinPath(nested, "log"), "1\n");
    await io.appendBytes(io.joinPath(nested, "log"), [Uint8Array.of(50), Uint8Array.of(10)]);
    await io.appendBytes(io.joinPath(nested, "log"), Uint8Array.of(51));
    expect(await io.readText(io.joinPath(nested, "log"))).toBe("1\n2\n3");
    expect(await io.readText(path)).toBe("héllo");
    expect(await io.listDir(nested)).toEqual(["log", "w.txt", "x.txt"]);
    await io.remove(path);
    await io.remove(path);
    expect(await io.fileExists(path)).toBe(false);
    expect(await io.fileExists(nested)).toBe(true);
    await io.remove(io.joinPath(folder, "a"));
    expect(await io.listDir(folder)).toEqual([]);
  });

  test("writes pieces and through a writer, and reads ranges", async () => {
    const path = io.joinPath(folder, "x");
    await io.writeFileAtomic(path, [Uint8Array.of(1, 2), Uint8Array.of(3)]);
    expect([...(await io.readFile(path))]).toEqual([1, 2, 3]);
    await io.writeFileAtomic(path, async (writer) => {
      for (let i = 0; i < 5; i++) {
        expect(writer.position).toBe(2 * i);
        await writer.write(Uint8Array.of(i, 10 * i));
      }
    });
    const source = await io.openFile(path);
    expect(source.size).toBe(10);
    expect([...(await source.read(3, 4))]).toEqual([10, 2, 20, 3]);
    expect((await source.read(10, 0)).length).toBe(0);
    const pieces: number[] = [];
    for await (const piece of io.sourceChunks(source, 1, 8, 3)) pieces.push(piece.length);
    expect(pieces).toEqual([3, 3, 2]);
    for (const [offset, length] of [
      [8, 3],
      [-1, 2],
      [0, 1e15],
      [0.5, 1],
      [0, Number.NaN],
    ] as const) {
      expect(await codeOf(source.read(offset, length))).toBe("file-corrupt");
    }
    await source.close();
  });

  test("a failed write keeps the old file and leaves nothing behind", async () => {
    const path = io.joinPath(folder, "x");
    await io.writeFileAtomic(path, "old");
    const failing = async (writer: { write(bytes: Uint8Array): Promise<void> }) => {
      await writer.write(Uint8Array.of(1));
      throw new Error("stop");
    };
    await expect(io.writeFileAtomic(path, failing)).rejects.toThrow("stop");
    await expect(io.writeFileAtomic(io.joinPath(folder, "new"), failing)).rejects.toThrow("stop");
    expect(await io.readText(path)).toBe("old");
    expect(await io.listDir(folder)).toEqual(["x"]);
  });

  test("temporary storage gives back what was written, and is gone after it is closed", async () => {
    const before = await io.listDir(io.dirname(folder));
    const scratch = await io.openScratch();
    await scratch.write(4, Uint8Array.of(5, 6, 7));
    await scratch.write(0, Uint8Array.of(1, 2, 3, 4));
    expect([...(await scratch.read(4, 3))]).toEqual([5, 6, 7]);
    expect([...(await scratch.read(0, 2))]).toEqual([1, 2]);
    expect(await codeOf(scratch.read(4, 9))).toBe("file-corrupt");
    await scratch.close();
    const added = (await io.listDir(io.dirname(folder))).filter((name) => !before.includes(name));
    expect(added.filter((name) => /scratch|tunesmith-[0-9a-f]{8}-/.test(name))).toEqual([]);
  });

  test("a folder is held by one at a time; a file becomes a Blob; space is told", async () => {
    const release = await io.holdLock(folder);
    expect(await codeOf(io.holdLock(folder))).toBe("in-use");
    await release();
    await (await io.holdLock(folder))();
    const path = io.joinPath(folder, "x");
    await io.writeFileAtomic(path, "abc");
    expect(await (await io.fileBlob(path)).text()).toBe("abc");
    expect(await codeOf(io.fileBlob(`${path}2`))).toBe("file-not-found");
    expect(await io.spaceLeft(folder)).toBeGreaterThan(0);
  });

  test("missing and unsuitable files give typed errors that name the path", async () => {
    const missing = io.joinPath(folder, "none", "x");
    expect(await codeOf(io.openFile(missing))).toBe("file-not-found");
    expect(await codeOf(io.readFile(missing))).toBe("file-not-found");
    expect(await codeOf(io.stat(missing))).toBe("file-not-found");
    expect(await codeOf(io.listDir(missing))).toBe("file-not-found");
    expect(await codeOf(io.writeFileAtomic(missing, "x"))).toBe("file-not-found");
    expect(await codeOf(io.openFile(folder))).toBe("file-read-failed");
    expect(await codeOf(io.writeFileAtomic(folder, "x"))).toBe("file-write-failed");
    await expect(io.readFile(missing)).rejects.toThrow(missing);
    const path = io.joinPath(folder, "x");
    await io.writeFileAtomic(path, Uint8Array.of(0xff, 0xfe, 0x41));
    expect(await codeOf(io.readText(path))).toBe("file-corrupt");
    expect(await codeOf(io.makeDir(io.joinPath(path, "y")))).toBe("file-write-failed");
  });

  test("sha256, Blob, memory, processors", async () => {
    const abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    expect(await io.sha256(new TextEncoder().encode("abc"))).toBe(abc);
    expect(await io.sha256([Uint8Array.of(97), Uint8Array.of(98, 99)])).toBe(abc);
    expect(await io.sha256(io.sourceChunks(io.openBytes(Uint8Array.of(97, 98, 99), "m"), 0, 3, 2))).toBe(abc);
    const blob = await io.openFile(new Blob([Uint8Array.of(1, 2, 3)]));
    expect([...(await blob.read(1, 2))]).toEqual([2, 3]);
    expect(await codeOf(blob.read(2, 2))).toBe("file-corrupt");
    expect(io.cpuCount()).toBeGreaterThan(0);
  });
});

test("the quota of a browser is told from a disk without permission", async () => {
  const failed = (name: string) =>
    codeOf(Promise.reject(new DOMException("refused", name)).catch(fileError("/x", "write")));
  expect(await failed("QuotaExceededError")).toBe("storage-full");
  expect(await failed("NotAllowedError")).toBe("file-write-failed");
});

test("node: a full disk is reported as such", async () => {
  if (!(await node.fileExists("/dev/full"))) return;
  expect(await codeOf(node.appendText("/dev/full", "x"))).toBe("storage-full");
  await expect(node.appendText("/dev/full", "x")).rejects.toThrow("disk is full");
});

test("node: the lock of a process that runs is kept, that of a killed one and of another machine taken over", async () => {
  const folder = await node.tempDir();
  const [lock, host] = [join(folder, ".lock"), hostname().replace(/[^\w.]/g, "_")];
  await node.writeFileAtomic(lock, `${host}-${process.ppid}`);
  expect(await codeOf(node.holdLock(folder))).toBe("in-use");
  const killed = spawnSync(process.execPath, ["-e", "0"]).pid;
  for (const stale of [`${host}-${killed}`, `${host}-${process.pid}`, `elsewhere-${process.ppid}`, ""]) {
    await node.writeFileAtomic(lock, stale);
    const release = await node.holdLock(folder);
    expect(await node.readText(lock)).toBe(`${host}-${process.pid}`);
    await release();
  }
  expect(await node.listDir(folder)).toEqual([]);
  await node.remove(folder);
});

test("node: folders of a process that was killed go when the next asks for one", async () => {
  const killed = spawnSync(process.execPath, ["-e", "0"]).pid;
  const host = hostname().replace(/[^\w.]/g, "_");
  const orphans = [`tunesmith-of-${host}-${killed}-a1b2c3`, `tunesmith-f32-of-${host}-${killed}-a1b2c3`];
  const others = [`tunesmith-of-${host}-${process.ppid}-a1b2c3`, `tunesmith-of-elsewhere-${killed}-a1b2c3`];
  for (const name of [...orphans, ...others]) await node.makeDir(join(tmpdir(), name));
  const folder = await node.tempDir("tunesmith-", { untilExit: true });
  expect(folder).toContain(`tunesmith-of-${host}-${process.pid}-`);
  for (const name of orphans) expect(await node.fileExists(join(tmpdir(), name)), name).toBe(false);
  for (const name of others) {
    expect(await node.fileExists(join(tmpdir(), name)), name).toBe(true);
    await node.remove(join(tmpdir(), name));
  }
});

test("the cache folder follows the environment", () => {
  vi.stubEnv("TUNESMITH_CACHE", "/somewhere");
  expect(node.cacheDir()).toBe(node.resolvePath("/somewhere"));
  vi.stubEnv("TUNESMITH_CACHE", "");
  vi.stubEnv("XDG_CACHE_HOME", "/xdg");
  expect(node.cacheDir()).toBe(node.joinPath("/xdg", "tunesmith"));
  expect(node.env("TUNESMITH_CACHE")).toBeUndefined();
  vi.unstubAllEnvs();
});

test("browser paths equal Node's POSIX paths", async () => {
  const { posix: reference } = await import("node:path");
  for (const path of [
    "/a/b/c",
    "a",
    "/a",
    "/",
    "a/b/",
    "../x",
    "a/../b",
    "/../x",
    "./a/b",
    "a/../../b",
    ".",
    "x.json",
  ]) {
    expect(posix.dirname(path)).toBe(reference.dirname(path));
    expect(posix.basename(path)).toBe(reference.basename(path));
    expect(posix.basename(path, ".json")).toBe(reference.basename(path, ".json"));
    expect(posix.joinPath(path, "y")).toBe(reference.join(path, "y"));
    expect(posix.resolvePath("/r", path)).toBe(reference.resolve("/r", path).replace(/(.)\/$/, "$1"));
  }
});

const content = Uint8Array.from({ length: 200_000 }, (_, i) => (i * 31) & 255);
let server: Server;
let base = "";
const requests: string[] = [];

beforeAll(async () => {
  server = createServer((request, response) => {
    const range = /bytes=(\d+)-(\d+)/.exec(request.headers.range ?? "");
    requests.push(`${request.method} ${request.headers.range ?? ""}`);
    const path = request.url ?? "";
    if (path === "/missing") return response.writeHead(404).end();
    if (path === "/forbidden") return response.writeHead(403).end();
    if (path === "/empty") return response.writeHead(416, { "content-range": "bytes */0" }).end();
    if (path === "/short") {
      response.writeHead(200, { "content-length": 1000 }).write("x");
      return setTimeout(() => response.destroy(), 10);
    }
    if (request.method === "HEAD") return response.writeHead(200, { "content-length": content.length }).end();
    if (path === "/whole" || !range) return response.writeHead(200).end(content);
    const [from, to] = [Number(range[1]), Math.min(Number(range[2]), content.length - 1)];
    const total = path === "/changing" && from > 0 ? 5 : content.length;
    const headers = path === "/hidden" ? {} : { "content-range": `bytes ${from}-${to}/${total}` };
    return response
      .writeHead(206, headers)
      .end(content.subarray(from, path === "/lossy" && from > 0 ? to : to + 1));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});
afterAll(() => server.close());

test("a URL is read by ranges, and the start only once", async () => {
  for (const path of ["/ranged", "/hidden"]) {
    requests.length = 0;
    const source = await browser.openFile(base + path);
    expect(source.size).toBe(content.length);
    expect(await source.read(0, 100)).toEqual(content.slice(0, 100));
    expect(await source.read(150_000, 33)).toEqual(content.slice(150_000, 150_033));
    expect(requests.filter((line) => line.startsWith("GET"))).toEqual([
      "GET bytes=0-65535",
      "GET bytes=150000-150032",
    ]);
    expect(await codeOf(source.read(199_999, 2))).toBe("file-corrupt");
  }
});

test("a server without ranges is read whole", async () => {
  const source = await node.openFile(new URL(`${base}/whole`));
  requests.length = 0;
  expect(await source.read(190_000, 5)).toEqual(content.slice(190_000, 190_005));
  expect(requests).toEqual([]);
  expect((await node.openFile(`${base}/empty`)).size).toBe(0);
});

test("failures of a server give typed errors", async () => {
  expect(await codeOf(node.openFile(`${base}/missing`))).toBe("file-not-found");
  expect(await codeOf(node.openFile(`${base}/forbidden`))).toBe("file-read-failed");
  expect(await codeOf(node.openFile(`${base}/short`))).toBe("file-corrupt");
  expect(await codeOf(node.openFile("http://127.0.0.1:1/x"))).toBe("offline");
  for (const path of ["/changing", "/lossy"]) {
    const source = await node.openFile(base + path);
    expect(await codeOf(source.read(100_000, 10))).toBe("file-corrupt");
  }
});
