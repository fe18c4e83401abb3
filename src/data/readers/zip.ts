import { inflateSync } from "fflate";
import type { ByteSource } from "../../io/types.js";
import { type ArchiveEntry, corrupt, isContent, MAX_ENTRIES, unsupported } from "./entries.js";

/** An entry may not claim to be larger: what it unpacks to is held in memory. */
const MAX_UNPACKED = 2 ** 30;
const utf8 = new TextDecoder();

export async function isZip(source: ByteSource): Promise<boolean> {
  const head = source.size >= 4 ? await source.read(0, 4) : new Uint8Array(4);
  return head[0] === 0x50 && head[1] === 0x4b && (head[2] === 3 || head[2] === 5);
}

/** The files of the central directory at the end of a zip file (with zip64). */
export async function zipEntries(source: ByteSource): Promise<ArchiveEntry[]> {
  const { count, start, size } = await zipDirectory(source);
  if (count > MAX_ENTRIES || start + size > source.size) throw corrupt(source, "the directory is damaged");
  const view = viewOf(await source.read(start, size));
  const entries: ArchiveEntry[] = [];
  let at = 0;
  for (let index = 0; index < count; index++) {
    if (at + 46 > view.byteLength || view.getUint32(at, true) !== 0x02014b50)
      throw corrupt(source, `entry ${index} of the directory is damaged`);
    const [nameSize, extraSize, commentSize] = [28, 30, 32].map((field) =>
      view.getUint16(at + field, true),
    ) as [number, number, number];
    const end = at + 46 + nameSize + extraSize + commentSize;
    if (end > view.byteLength) throw corrupt(source, `entry ${index} of the directory is damaged`);
    const path = utf8.decode(new Uint8Array(view.buffer, view.byteOffset + at + 46, nameSize));
    if (isContent(path)) entries.push(zipEntry(source, path, view, at, nameSize, extraSize));
    at = end;
  }
  return entries;
}

const viewOf = (bytes: Uint8Array) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);

async function zipDirectory(source: ByteSource): Promise<{ count: number; start: number; size: number }> {
  // The end record is followed by a comment of at most 64 KiB.
  const tail = Math.min(source.size, 22 + 0xffff);
  const view = viewOf(await source.read(source.size - tail, tail));
  let at = view.byteLength - 22;
  while (at >= 0 && view.getUint32(at, true) !== 0x06054b50) at--;
  if (at < 0) throw corrupt(source, "the end of the zip file is missing");
  const found = {
    count: view.getUint16(at + 10, true),
    size: view.getUint32(at + 12, true),
    start: view.getUint32(at + 16, true),
  };
  if (found.start !== 0xffffffff && found.count !== 0xffff) return found;
  if (at < 20 || view.getUint32(at - 20, true) !== 0x07064b50) return found;
  const record = viewOf(await source.read(Number(view.getBigUint64(at - 12, true)), 56));
  return {
    count: Number(record.getBigUint64(32, true)),
    size: Number(record.getBigUint64(40, true)),
    start: Number(record.getBigUint64(48, true)),
  };
}

function zipEntry(
  source: ByteSource,
  path: string,
  view: DataView,
  at: number,
  nameSize: number,
  extraSize: number,
): ArchiveEntry {
  const flags = view.getUint16(at + 8, true);
  const method = view.getUint16(at + 10, true);
  let [packed, size, offset] = [20, 24, 42].map((field) => view.getUint32(at + field, true)) as [
    number,
    number,
    number,
  ];
  const extraEnd = at + 46 + nameSize + extraSize;
  for (let extra = at + 46 + nameSize; extra + 4 <= extraEnd; ) {
    const length = view.getUint16(extra + 2, true);
    let field = extra + 4;
    const next = () => {
      if (field + 8 > Math.min(extra + 4 + length, extraEnd)) throw corrupt(source, `'${path}' is damaged`);
      field += 8;
      return Number(view.getBigUint64(field - 8, true));
    };
    if (view.getUint16(extra, true) === 1) {
      if (size === 0xffffffff) size = next();
      if (packed === 0xffffffff) packed = next();
      if (offset === 0xffffffff) offset = next();
    }
    extra += 4 + length;
  }
  const read = async (): Promise<Uint8Array> => {
    if (flags & 1) throw unsupported(source, `'${path}' is encrypted`, "unpack it with its password");
    if (method !== 0 && method !== 8)
      throw unsupported(source, `'${path}' is packed by method ${method}`, "unpack the archive");
    if (size > MAX_UNPACKED) throw unsupported(source, `'${path}' has ${size} bytes`, "unpack the archive");
    const local = viewOf(await source.read(offset, 30));
    const start = offset + 30 + local.getUint16(26, true) + local.getUint16(28, true);
    const bytes = await source.read(start, packed);
    return method === 0 ? bytes : unpack(source, path, bytes, size);
  };
  return { name: `${source.name}:${path}`, path, size, read };
}

function unpack(source: ByteSource, path: string, bytes: Uint8Array, size: number): Uint8Array {
  try {
    // Deflate gains at most a factor of 1032: a larger claim is false, and is not allocated.
    if (size > 1032 * bytes.byteLength + 64) throw new Error("a size that the packed bytes cannot have");
    const out = inflateSync(bytes, { out: new Uint8Array(size) });
    if (out.byteLength !== size) throw new Error(`${out.byteLength} bytes instead of ${size}`);
    return out;
  } catch (cause) {
    throw corrupt(source, `'${path}' cannot be unpacked (${(cause as Error).message})`);
  }
}
