import type { ByteSource } from "#io";
import type { TunesmithError } from "../../errors/index.js";
import { corrupt } from "../safetensors/header.js";

/** Headers beyond this are refused; tokenizers inside GGUF files take some ten megabytes. */
const MAX_HEADER = 1 << 28;
const FIRST_READ = 1 << 16;

/** Thrown by a cursor whose bytes end although the file goes on: `parseGrowing` reads more and starts again. */
class OutOfBytes extends Error {}

/** Little-endian reading of a file's beginning; every read is checked against the bytes there are. */
export interface Cursor {
  /** Name of the file, for messages. */
  readonly file: string;
  /** Counted from the start of the bytes. */
  readonly position: number;
  /** Bytes from the position to the end of the file, read already or not. */
  readonly left: number;
  u8(): number;
  u16(): number;
  u32(): number;
  i32(): number;
  /** An unsigned 64-bit length; one beyond 2^53 cannot be right in any file. */
  u64(): number;
  view(length: number): DataView;
  /** A view of the next bytes. */
  take(length: number): Uint8Array;
  text(length: number): string;
  /** Up to and without the next newline, one character a byte. */
  line(): string;
  /** The error for this file. */
  bad(why: string): TunesmithError;
}

/**
 * Parses the beginning of a file whose length is not known beforehand. `parse` is pure: it is called again with more
 * bytes as long as it runs out of them. Throws `file-corrupt` when the file ends, or nothing ends, where it should.
 *
 * @param start Where the part to be parsed begins.
 */
export async function parseGrowing<T>(
  source: ByteSource,
  start: number,
  format: string,
  parse: (cursor: Cursor) => T,
): Promise<T> {
  const whole = source.size - start;
  for (let size = Math.min(FIRST_READ, whole); ; size = Math.min(size * 4, whole)) {
    const bytes = await source.read(start, size);
    try {
      return parse(cursorOver(bytes, whole, source.name, format));
    } catch (error) {
      if (!(error instanceof OutOfBytes)) throw error;
      if (size >= MAX_HEADER) throw bad(source.name, format, `its header does not end within ${size} bytes`);
    }
  }
}

/** A cursor over bytes that are the whole file. */
export function cursorOf(bytes: Uint8Array, file: string, format: string): Cursor {
  return cursorOver(bytes, bytes.byteLength, file, format);
}

function bad(file: string, format: string, why: string): TunesmithError {
  return corrupt(file, `not a readable ${format} file: ${why}`, "copy or download the file again");
}

function cursorOver(bytes: Uint8Array, whole: number, file: string, format: string): Cursor {
  const data = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let position = 0;
  const advance = (length: number): number => {
    const at = position;
    if (!(length >= 0) || length > whole - at) {
      throw bad(file, format, `${length} bytes are announced at ${at}, but only ${whole - at} are left`);
    }
    if (length > bytes.byteLength - at) throw new OutOfBytes();
    position += length;
    return at;
  };
  const take = (length: number) => {
    const at = advance(length);
    return bytes.subarray(at, at + length);
  };
  return {
    file,
    get position() {
      return position;
    },
    get left() {
      return whole - position;
    },
    u8: () => data.getUint8(advance(1)),
    u16: () => data.getUint16(advance(2), true),
    u32: () => data.getUint32(advance(4), true),
    i32: () => data.getInt32(advance(4), true),
    u64() {
      const at = advance(8);
      const value = data.getUint32(at, true) + data.getUint32(at + 4, true) * 2 ** 32;
      if (Number.isSafeInteger(value)) return value;
      throw bad(file, format, `a length of ${value} is announced at ${at}`);
    },
    view: (length) => new DataView(bytes.buffer, bytes.byteOffset + advance(length), length),
    take,
    text: (length) => decodeUtf8(take(length), () => bad(file, format, `no text at ${position - length}`)),
    line() {
      const end = bytes.indexOf(0x0a, position);
      if (end < 0) {
        if (bytes.byteLength < whole) throw new OutOfBytes();
        throw bad(file, format, `a line at ${position} does not end`);
      }
      const text = latin1(take(end - position));
      position = end + 1;
      return text;
    },
    bad: (why) => bad(file, format, why),
  };
}

const strict = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

function decodeUtf8(bytes: Uint8Array, error: () => TunesmithError): string {
  try {
    return strict.decode(bytes);
  } catch {
    throw error();
  }
}

/** Text with one character a byte. */
export function latin1(bytes: Uint8Array): string {
  let text = "";
  for (const byte of bytes) text += String.fromCharCode(byte);
  return text;
}
