import { existsSync, readFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";
import { chromium } from "playwright-core";
import { expect, test } from "vitest";
import type * as Tensors from "../tensor/index.js";
import type { Io } from "./types.js";

const executablePath = process.env.TUNESMITH_CHROMIUM ?? "/usr/bin/chromium";
const root = fileURLToPath(new URL("../../", import.meta.url));

/** The floors io and tensor as one script for the page, with `#io` taking its browser side. */
async function bundle(): Promise<string> {
  const result = await build({
    stdin: {
      contents: 'export * as io from "#io"; export * as tensors from "./src/tensor/index.ts";',
      resolveDir: root,
    },
    alias: { "#io": `${root}src/io/browser.ts` },
    bundle: true,
    format: "iife",
    globalName: "tunesmith",
    target: "es2022",
    write: false,
  });
  return result.outputFiles[0]?.text ?? "";
}

/** Headers that let the page share memory between threads. */
const isolated = {
  "content-type": "text/html",
  "cross-origin-opener-policy": "same-origin",
  "cross-origin-embedder-policy": "require-corp",
};

/** Runs in the page. */
async function scenario(fixtureUrl: string) {
  const { io, tensors } = (globalThis as unknown as { tunesmith: { io: Io; tensors: typeof Tensors } })
    .tunesmith;
  const code = (promise: Promise<unknown>) =>
    promise.then(
      () => "none",
      (error) => error.code,
    );
  const folder = await io.tempDir();
  const remote = await tensors.openSafetensors(fixtureUrl);
  const path = io.joinPath(folder, "copy.safetensors");
  await tensors.writeSafetensors(path, remote.entries, { metadata: remote.metadata });
  const local = await tensors.openSafetensors(path);
  const row = await local.readRows("noise.f32", 1, 2);
  await tensors.writeSharded(folder, local.entries, { maxShardBytes: 300 });
  const shards = await tensors.openSharded(folder);
  let different = 0;
  for (const name of remote.entries.keys()) {
    if (!tensors.tensorsEqual(await remote.read(name), await shards.read(name))) different++;
  }
  await io.writeFileAtomic(io.joinPath(folder, "note"), "old");
  const stopped = await code(
    io.writeFileAtomic(io.joinPath(folder, "note"), async (writer) => {
      await writer.write(new Uint8Array(new SharedArrayBuffer(4)));
      throw Object.assign(new Error("stop"), { code: "stopped" });
    }),
  );
  await io.appendText(io.joinPath(folder, "note"), "er");
  await io.copyFile(path, `${path}2`);
  const result = {
    stopped,
    missingFolder: await code(io.writeFileAtomic("/none/x", "x")),
    missingFile: await code(io.openFile("/none/x")),
    openedFolder: await code(io.openFile(folder)),
    listedFile: await code(io.listDir(path)),
    offline: await code(io.openFile("http://127.0.0.1:1/x")),
    different,
    row: [...(row.data as Float32Array)],
    sha256: await io.sha256(io.sourceChunks(await io.openFile(path), undefined, undefined, 100)),
    files: await io.listDir(folder),
    note: await io.readText(io.joinPath(folder, "note")),
    copied: (await io.stat(`${path}2`)).size,
    cpus: io.cpuCount(),
    served: await io.sha256(
      await io.readFile(io.joinPath(await io.assetFolder(new URL("./", fixtureUrl), ["fixture"]), "fixture")),
    ),
  };
  await io.remove(folder);
  return { ...result, removed: !(await io.fileExists(folder)) };
}

test.skipIf(!existsSync(executablePath))(
  "in Chromium: files of the origin private file system, ranges, safetensors (needs Chromium, or TUNESMITH_CHROMIUM)",
  async () => {
    const { sha256 } = await import("./node.js");
    const { openSafetensors } = await import("../tensor/index.js");
    const fixture = `${root}fixtures/safetensors/reference.safetensors`;
    const bytes = readFileSync(fixture);
    const script = await bundle();
    const server = createServer((request, response) => {
      if (request.url !== "/fixture") return response.writeHead(200, isolated).end("<p>test</p>");
      const range = /bytes=(\d+)-(\d+)/.exec(request.headers.range ?? "");
      const [from, to] = [Number(range?.[1]), Math.min(Number(range?.[2]), bytes.length - 1)];
      response.writeHead(206, { "content-range": `bytes ${from}-${to}/${bytes.length}` });
      return response.end(bytes.subarray(from, to + 1));
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    const browser = await chromium.launch({
      executablePath,
      args: [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-background-networking",
        "--disable-component-update",
      ],
    });
    try {
      const page = await browser.newPage();
      await page.goto(base);
      await page.addScriptTag({ content: script });
      const found = await page.evaluate(scenario, `${base}/fixture`);
      const reference = await openSafetensors(fixture);
      const row = await reference.readRows("noise.f32", 1, 2);
      await reference.close();
      expect(found).toMatchObject({
        stopped: "stopped",
        missingFolder: "file-not-found",
        missingFile: "file-not-found",
        openedFolder: "file-read-failed",
        listedFile: "file-read-failed",
        offline: "offline",
        different: 0,
        row: [...(row.data as Float32Array)],
        sha256: await sha256(bytes),
        served: await sha256(bytes),
        note: "older",
        copied: bytes.length,
        removed: true,
      });
      expect(found.files).toContain("model.safetensors.index.json");
      expect(found.files).toContain("copy.safetensors");
      expect(found.cpus).toBeGreaterThan(0);
    } finally {
      await browser.close();
      server.close();
    }
  },
);
