// A static server for the browser tests: isolated pages (threads need shared memory), range requests.
import { createReadStream, statSync } from "node:fs";
import { createServer } from "node:http";
import { extname, join, normalize } from "node:path";

const types = {
  ".html": "text/html",
  ".js": "text/javascript",
  ".mjs": "text/javascript",
  ".json": "application/json",
  ".wasm": "application/wasm",
};

const isolation = {
  "cross-origin-opener-policy": "same-origin",
  "cross-origin-embedder-policy": "require-corp",
  "cross-origin-resource-policy": "same-origin",
};

const LARGE = Buffer.from(Uint8Array.from({ length: 8_000_000 }, (_, i) => i % 251));

/**
 * Serves `folders` (URL prefix to directory) and `texts` (URL path to content); `/large` is 8 MB of bytes `i % 251`,
 * `/served?path=P` tells how many bytes of P were sent.
 */
export async function serve(folders, texts) {
  const sent = new Map();
  const server = createServer((request, response) => {
    const url = new URL(request.url ?? "/", "http://localhost");
    const path = normalize(url.pathname);
    const type = types[extname(path)] ?? "application/octet-stream";
    const headers = {
      ...isolation,
      "content-type": type,
      "cache-control": "no-store",
      "accept-ranges": "bytes",
    };
    const counted = (bytes) => sent.set(path, (sent.get(path) ?? 0) + bytes);
    if (path === "/")
      return response
        .writeHead(200, { ...headers, "content-type": "text/html" })
        .end("<!doctype html><title>tests</title>");
    if (path === "/favicon.ico") return response.writeHead(204, headers).end();
    if (path === "/served")
      return response.writeHead(200, headers).end(String(sent.get(url.searchParams.get("path")) ?? 0));
    if (texts[path] !== undefined) return response.writeHead(200, headers).end(texts[path]);
    const buffer = path === "/large" ? LARGE : undefined;
    const file = buffer ? undefined : fileFor(folders, path);
    if (!buffer && !file) return response.writeHead(404, headers).end();
    const size = buffer?.length ?? statSync(file).size;
    const range = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? "");
    const from = range ? Number(range[1]) : 0;
    const to = Math.min(range?.[2] ? Number(range[2]) : size - 1, size - 1);
    headers["content-length"] = String(to - from + 1);
    if (range) headers["content-range"] = `bytes ${from}-${to}/${size}`;
    counted(to - from + 1);
    response.writeHead(range ? 206 : 200, headers);
    return buffer
      ? response.end(buffer.subarray(from, to + 1))
      : createReadStream(file, { start: from, end: to }).pipe(response);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve(undefined)));
  return { origin: `http://localhost:${server.address().port}`, close: () => server.close() };
}

function fileFor(folders, path) {
  for (const [prefix, folder] of Object.entries(folders)) {
    if (!path.startsWith(prefix)) continue;
    const file = join(folder, path.slice(prefix.length));
    if (file.startsWith(folder) && statSync(file, { throwIfNoEntry: false })?.isFile()) return file;
  }
  return undefined;
}
