import { TunesmithError } from "../errors/index.js";
import type { ByteChunks, ByteSource } from "./types.js";

/** Throws `file-corrupt` unless `offset .. offset + length` lies inside a source of `size` bytes. */
export function checkRange(name: string, size: number, offset: number, length: number): void {
  const sane = Number.isSafeInteger(offset) && Number.isSafeInteger(length) && offset >= 0 && length >= 0;
  if (sane && offset + length <= size) return;
  throw new TunesmithError(
    "file-corrupt",
    `${name}: ${length} bytes at offset ${offset} were asked for, but it has ${size} bytes`,
    {
      fix: "the file is truncated or its header is wrong; copy or download it again",
      details: { name, size, offset, length },
    },
  );
}

/**
 * A source over bytes in memory. Reads are views of `bytes`, never copies.
 *
 * @param name Stands for the file name in error messages.
 */
export function openBytes(bytes: Uint8Array, name: string): ByteSource {
  return {
    name,
    size: bytes.byteLength,
    async read(offset, length) {
      checkRange(name, bytes.byteLength, offset, length);
      return bytes.subarray(offset, offset + length);
    },
    async close() {},
  };
}

/** A source over a `Blob` (a `File` of an upload field, a file of the origin private file system). */
export function openBlob(blob: Blob, name: string): ByteSource {
  return {
    name,
    size: blob.size,
    async read(offset, length) {
      checkRange(name, blob.size, offset, length);
      const bytes = await readBlob(blob.slice(offset, offset + length), name);
      checkRange(name, offset + bytes.byteLength, offset, length);
      return bytes;
    },
    async close() {},
  };
}

async function readBlob(blob: Blob, name: string): Promise<Uint8Array> {
  try {
    return new Uint8Array(await blob.arrayBuffer());
  } catch (cause) {
    throw new TunesmithError("file-read-failed", `${name}: the browser could not read the file`, {
      fix: "the file was moved or changed after it was picked; pick it again",
      cause,
      details: { name },
    });
  }
}

/** Reads a range of a source piece by piece, so that no more than `chunkBytes` (default 8 MiB) is in memory. */
export async function* sourceChunks(
  source: ByteSource,
  offset = 0,
  length = source.size - offset,
  chunkBytes = 8 * 1024 * 1024,
): AsyncGenerator<Uint8Array> {
  checkRange(source.name, source.size, offset, length);
  for (let done = 0; done < length; done += chunkBytes) {
    yield await source.read(offset + done, Math.min(chunkBytes, length - done));
  }
}

/** The pieces of any `ByteChunks`, one after the other. */
export async function* eachChunk(chunks: ByteChunks): AsyncGenerator<Uint8Array> {
  if (chunks instanceof Uint8Array) yield chunks;
  else yield* chunks;
}

/** Decodes UTF-8 strictly, dropping a byte order mark; throws `file-corrupt` on invalid bytes. */
export function decodeText(bytes: Uint8Array, name: string): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch (cause) {
    throw new TunesmithError("file-corrupt", `${name}: not valid UTF-8 text`, {
      fix: "save the file as UTF-8",
      cause,
      details: { name },
    });
  }
}
