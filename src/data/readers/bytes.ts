import { openFile, sourceChunks } from "#io";
import { TunesmithError } from "../../errors/index.js";
import type { ByteSource } from "../../io/types.js";

/** Small enough that a batch of parsed rows takes little memory, large enough that system calls do not count. */
const CHUNK_BYTES = 1 << 20;

/** A path, or bytes that are open already (which the reader then does not close). */
export type DataFile = string | ByteSource;

export const nameOf = (file: DataFile): string => (typeof file === "string" ? file : file.name);

/** Opens a file if it is not open yet, and closes it after use if it was not. */
export async function* withSource<T>(
  file: DataFile,
  use: (source: ByteSource) => AsyncGenerator<T>,
): AsyncGenerator<T> {
  const source = typeof file === "string" ? await openFile(file) : file;
  try {
    yield* use(source);
  } finally {
    if (typeof file === "string") await source.close();
  }
}

/** The bytes of a file piece by piece; those of a gzip file (by its first two bytes) unpacked. */
export async function* fileChunks(source: ByteSource): AsyncGenerator<Uint8Array> {
  const head = source.size >= 2 ? await source.read(0, 2) : new Uint8Array(2);
  const chunks = sourceChunks(source, 0, source.size, CHUNK_BYTES);
  if (head[0] === 0x1f && head[1] === 0x8b) yield* gunzip(source.name, chunks);
  else yield* chunks;
}

async function* gunzip(name: string, chunks: AsyncGenerator<Uint8Array>): AsyncGenerator<Uint8Array> {
  const packed = new ReadableStream<BufferSource>({
    async pull(controller) {
      const { done, value } = await chunks.next();
      if (done) controller.close();
      else controller.enqueue(value as BufferSource);
    },
  });
  const reader = packed.pipeThrough(new DecompressionStream("gzip")).getReader();
  try {
    for (;;) {
      const { done, value } = await reader.read().catch((cause: unknown) => {
        throw new TunesmithError("file-corrupt", `${name}: the gzip data is damaged`, {
          fix: "copy or download the file again",
          cause,
        });
      });
      if (done) return;
      yield value;
    }
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}

/**
 * All bytes of a file, unpacked. Throws `data-invalid` beyond `limit` bytes (default 2 GiB), so that a small packed file
 * cannot fill the memory.
 */
export async function readUnpacked(file: DataFile, limit = 2 ** 31): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of withSource(file, fileChunks)) {
    size += chunk.byteLength;
    if (size > limit) {
      throw new TunesmithError("data-invalid", `${nameOf(file)} holds more than ${limit} bytes`, {
        fix: "split it into smaller files",
      });
    }
    parts.push(chunk);
  }
  const [only] = parts;
  if (only && parts.length === 1) return only;
  const bytes = new Uint8Array(size);
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.byteLength;
  }
  return bytes;
}
