import { TunesmithError } from "../errors/index.js";
import { checkRange, openBlob } from "./source.js";
import type { ByteSource } from "./types.js";

/** The first request fetches this much, so that a header that follows costs no second round trip. */
const HEAD_BYTES = 64 * 1024;

/**
 * Opens a URL for random access by HTTP range requests. A server that answers 200 instead of 206 cannot serve
 * ranges: its answer is then kept whole (as a `Blob`, which browsers may hold on disk) after a check of its size.
 *
 * Throws `file-not-found` (404, 410), `offline` (no answer), `file-read-failed` (any other refusal) and
 * `file-corrupt` (fewer bytes than announced, or the file changed between two reads).
 */
export async function openUrl(url: URL): Promise<ByteSource> {
  const name = url.href;
  const response = await request(name, { headers: { Range: `bytes=0-${HEAD_BYTES - 1}` } });
  if (response.status === 416) {
    await response.body?.cancel();
    return openBlob(new Blob([]), name);
  }
  if (response.status !== 206) return openBlob(await wholeBody(response, name), name);
  const head = await bodyBytes(response, name);
  const size = totalSize(response) ?? (await sizeByHead(name));
  checkRange(name, size, 0, head.byteLength);
  if (head.byteLength < Math.min(size, HEAD_BYTES))
    throw shortAnswer(name, Math.min(size, HEAD_BYTES), head.byteLength);
  const etag = response.headers.get("etag");
  return {
    name,
    size,
    async read(offset, length) {
      checkRange(name, size, offset, length);
      if (offset + length <= head.byteLength) return head.subarray(offset, offset + length);
      return readRange(name, size, etag, offset, length);
    },
    async close() {},
  };
}

async function readRange(
  name: string,
  size: number,
  etag: string | null,
  offset: number,
  length: number,
): Promise<Uint8Array> {
  if (length === 0) return new Uint8Array(0);
  const response = await request(name, { headers: { Range: `bytes=${offset}-${offset + length - 1}` } });
  const total = totalSize(response);
  const tag = response.headers.get("etag");
  if (response.status !== 206 || (total ?? size) !== size || (etag && tag && etag !== tag)) {
    await response.body?.cancel();
    throw new TunesmithError("file-corrupt", `${name}: the file changed on the server while it was read`, {
      fix: "open it again",
      details: { status: response.status, size, total, etag, tag },
    });
  }
  const bytes = await bodyBytes(response, name);
  if (bytes.byteLength !== length) throw shortAnswer(name, length, bytes.byteLength);
  return bytes;
}

async function request(name: string, init: RequestInit): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(name, init);
  } catch (cause) {
    throw new TunesmithError("offline", `${name}: no answer from the server`, {
      fix: "check the connection and the address (in a browser: that the server allows this origin), or use a local file",
      cause,
      details: { url: name },
    });
  }
  if (response.ok || response.status === 416) return response;
  await response.body?.cancel();
  const missing = response.status === 404 || response.status === 410;
  throw new TunesmithError(
    missing ? "file-not-found" : "file-read-failed",
    `${name}: the server answered ${response.status} ${response.statusText}`.trimEnd(),
    {
      fix: missing
        ? "check the address"
        : "check that the address may be read without signing in, or try later",
      details: { url: name, status: response.status },
    },
  );
}

/** The size behind the slash of `Content-Range: bytes 0-9/1234`; undefined where CORS hides the header. */
function totalSize(response: Response): number | undefined {
  const match = /\/(\d+)\s*$/.exec(response.headers.get("content-range") ?? "");
  return match ? Number(match[1]) : undefined;
}

async function sizeByHead(name: string): Promise<number> {
  const response = await request(name, { method: "HEAD" });
  const size = Number(response.headers.get("content-length") ?? Number.NaN);
  if (Number.isSafeInteger(size)) return size;
  throw new TunesmithError("file-read-failed", `${name}: the server does not tell the size of the file`, {
    fix: "let the server expose the Content-Range header (Access-Control-Expose-Headers), or download the file first",
    details: { url: name },
  });
}

async function wholeBody(response: Response, name: string): Promise<Blob> {
  const blob = await body(name, () => response.blob());
  const announced = response.headers.get("content-length");
  const encoded = response.headers.get("content-encoding");
  if (announced !== null && !encoded && Number(announced) !== blob.size) {
    throw shortAnswer(name, Number(announced), blob.size);
  }
  return blob;
}

async function bodyBytes(response: Response, name: string): Promise<Uint8Array> {
  return new Uint8Array(await body(name, () => response.arrayBuffer()));
}

async function body<T>(name: string, take: () => Promise<T>): Promise<T> {
  try {
    return await take();
  } catch (cause) {
    throw new TunesmithError("file-corrupt", `${name}: the connection broke in the middle of the answer`, {
      fix: "try again",
      cause,
      details: { url: name },
    });
  }
}

function shortAnswer(name: string, wanted: number, got: number): TunesmithError {
  return new TunesmithError("file-corrupt", `${name}: ${wanted} bytes were announced, ${got} arrived`, {
    fix: "try again",
    details: { url: name, wanted, got },
  });
}
