import { Inflate } from "fflate";
import type { ByteSource } from "#io";
import { TunesmithError } from "../../errors/index.js";
import { corrupt, quote } from "../safetensors/header.js";
import { type Cursor, cursorOf } from "./cursor.js";

const END = 0x06054b50;
const END64 = 0x06064b50;
const LOCATOR64 = 0x07064b50;
const CENTRAL = 0x02014b50;
const LOCAL = 0x04034b50;
const END_BYTES = 22;
const CENTRAL_BYTES = 46;
const UNKNOWN32 = 0xffffffff;

/** One file of an archive, as the central directory describes it. */
export interface ZipEntry {
  readonly name: string;
  /** Stored without compression: its bytes lie in the archive as they are. */
  readonly stored: boolean;
  readonly crc: number;
  readonly compressedSize: number;
  readonly size: number;
  readonly localOffset: number;
}

/**
 * The directory of a zip archive (zip64 as well) by positional reads. Throws `file-corrupt`, and `format-unsupported` for
 * encrypted entries and compression other than deflate.
 */
export async function readZip(source: ByteSource): Promise<Map<string, ZipEntry>> {
  const { offset, size, count } = await findDirectory(source);
  if (offset + size > source.size || count * CENTRAL_BYTES > size) {
    throw bad(source, `its directory of ${count} entries does not fit`);
  }
  const cursor = cursorOf(await source.read(offset, size), source.name, "zip");
  const entries = new Map<string, ZipEntry>();
  let total = 0;
  for (let i = 0; i < count; i++) {
    const entry = centralEntry(source, cursor);
    total += entry.compressedSize;
    if (entries.has(entry.name)) throw bad(source, `it has two entries ${quote(entry.name)}`);
    // Overlapping entries are how small archives unpack to enormous ones.
    if (total > source.size || entry.localOffset >= source.size) throw bad(source, "its entries overlap");
    entries.set(entry.name, entry);
  }
  return entries;
}

async function findDirectory(source: ByteSource): Promise<{ offset: number; size: number; count: number }> {
  const tailSize = Math.min(source.size, END_BYTES + 0xffff);
  const tailStart = source.size - tailSize;
  const tail = await source.read(tailStart, tailSize);
  const view = new DataView(tail.buffer, tail.byteOffset, tail.byteLength);
  for (let at = tailSize - END_BYTES; at >= 0; at--) {
    if (view.getUint32(at, true) !== END || view.getUint16(at + 20, true) > tailSize - at - END_BYTES)
      continue;
    const found = {
      count: view.getUint16(at + 10, true),
      size: view.getUint32(at + 12, true),
      offset: view.getUint32(at + 16, true),
    };
    const large = found.count === 0xffff || found.size === UNKNOWN32 || found.offset === UNKNOWN32;
    const locator = tailStart + at - 20;
    const found64 = large && locator >= 0 ? await directory64(source, locator) : undefined;
    return found64 ?? found;
  }
  throw bad(source, "the end of its directory is missing; it is truncated, or no zip file");
}

async function directory64(source: ByteSource, locator: number) {
  const first = cursorOf(await source.read(locator, 20), source.name, "zip");
  if (first.u32() !== LOCATOR64) return undefined;
  first.u32();
  const at = first.u64();
  if (at + 56 > source.size) throw bad(source, "its zip64 directory lies outside of it");
  const record = cursorOf(await source.read(at, 56), source.name, "zip");
  if (record.u32() !== END64) throw bad(source, "its zip64 directory is damaged");
  record.take(28);
  const count = record.u64();
  const size = record.u64();
  return { count, size, offset: record.u64() };
}

function centralEntry(source: ByteSource, cursor: Cursor): ZipEntry {
  if (cursor.u32() !== CENTRAL) throw bad(source, "its directory is damaged");
  cursor.take(4);
  const flags = cursor.u16();
  const method = cursor.u16();
  cursor.take(4);
  const crc = cursor.u32();
  const sizes = { compressedSize: cursor.u32(), size: cursor.u32(), localOffset: 0 };
  const nameLength = cursor.u16();
  const extraLength = cursor.u16();
  const commentLength = cursor.u16();
  cursor.take(8);
  sizes.localOffset = cursor.u32();
  const name = cursor.text(nameLength);
  readZip64(sizes, cursorOf(cursor.take(extraLength), source.name, "zip"));
  cursor.take(commentLength);
  if ((flags & 1) !== 0 || (method !== 0 && method !== 8)) {
    const what = (flags & 1) !== 0 ? "encrypted" : `compressed by method ${method}`;
    throw new TunesmithError("format-unsupported", `${source.name}: entry ${quote(name)} is ${what}`, {
      fix: "write the archive stored or with deflate, without a password",
    });
  }
  if (method === 0 && sizes.size !== sizes.compressedSize) {
    throw bad(source, `entry ${quote(name)} is stored, but has two sizes`);
  }
  // Deflate gains at most a factor of 1032, so a larger size is a lie.
  if (sizes.size > sizes.compressedSize * 1032 + 64)
    throw bad(source, `entry ${quote(name)} has a wrong size`);
  return { name, stored: method === 0, crc, ...sizes };
}

/** Sizes that do not fit 32 bits follow in an extra field, those that are marked and in this order. */
function readZip64(
  sizes: { compressedSize: number; size: number; localOffset: number },
  extra: Cursor,
): void {
  while (extra.left >= 4) {
    const id = extra.u16();
    const length = extra.u16();
    if (id !== 1) {
      extra.take(Math.min(length, extra.left));
      continue;
    }
    if (sizes.size === UNKNOWN32) sizes.size = extra.u64();
    if (sizes.compressedSize === UNKNOWN32) sizes.compressedSize = extra.u64();
    if (sizes.localOffset === UNKNOWN32) sizes.localOffset = extra.u64();
    return;
  }
}

/** Where an entry's bytes begin in the archive. Throws `file-corrupt` unless they lie inside it. */
export async function entryOffset(source: ByteSource, entry: ZipEntry): Promise<number> {
  const fixed = Math.min(30, source.size - entry.localOffset);
  const header = cursorOf(await source.read(entry.localOffset, fixed), source.name, "zip");
  if (header.u32() !== LOCAL) throw bad(source, `entry ${quote(entry.name)} is not where it should be`);
  header.take(22);
  const offset = entry.localOffset + 30 + header.u16() + header.u16();
  if (offset + entry.compressedSize <= source.size) return offset;
  throw bad(source, `entry ${quote(entry.name)} is cut off`);
}

/**
 * The bytes of an entry, or its first `limit` ones. Compressed entries read whole are checked against their CRC-32.
 * Throws `file-corrupt`.
 */
export async function readEntry(
  source: ByteSource,
  entry: ZipEntry,
  limit = Number.POSITIVE_INFINITY,
): Promise<Uint8Array> {
  const offset = await entryOffset(source, entry);
  if (entry.stored) return source.read(offset, Math.min(entry.size, limit));
  const bytes = await inflate(source, entry, offset, limit);
  if (bytes.byteLength >= entry.size && crc32(bytes) !== entry.crc) {
    throw bad(source, `the checksum of entry ${quote(entry.name)} is wrong`);
  }
  return bytes;
}

/** Memory grows with what really comes out, not with the size that is announced. */
async function inflate(
  source: ByteSource,
  entry: ZipEntry,
  offset: number,
  limit: number,
): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  let length = 0;
  const inflater = new Inflate((part) => {
    parts.push(part);
    length += part.byteLength;
  });
  const chunk = 1 << 16;
  const damaged = (cause?: unknown) =>
    corrupt(source.name, `entry ${quote(entry.name)} cannot be unpacked`, "copy or download the file again", {
      cause,
    });
  for (let at = 0; at < entry.compressedSize && length < limit; at += chunk) {
    const size = Math.min(chunk, entry.compressedSize - at);
    const piece = await source.read(offset + at, size);
    try {
      inflater.push(piece, at + size >= entry.compressedSize);
    } catch (cause) {
      throw damaged(cause);
    }
    if (length > entry.size) throw damaged();
  }
  const wanted = Math.min(limit, entry.size);
  if (length < wanted) throw damaged();
  const out = new Uint8Array(wanted);
  let at = 0;
  for (const part of parts) {
    out.set(part.subarray(0, wanted - at), at);
    at = Math.min(wanted, at + part.byteLength);
  }
  return out;
}

let crcTable: Uint32Array | undefined;

function crc32(bytes: Uint8Array): number {
  crcTable ??= Uint32Array.from({ length: 256 }, (_, n) => {
    let c = n;
    for (let bit = 0; bit < 8; bit++) c = (c & 1) !== 0 ? 0xedb88320 ^ (c >>> 1) : c >>> 1;
    return c;
  });
  let crc = 0xffffffff;
  for (const byte of bytes) crc = (crcTable[(crc ^ byte) & 255] as number) ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

function bad(source: ByteSource, why: string): TunesmithError {
  return corrupt(source.name, why, "copy or download the file again");
}
