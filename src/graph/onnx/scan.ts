import type { ByteSource } from "#io";
import { TunesmithError } from "../../errors/index.js";
import { joinBytes, lengthHeader } from "./wire.js";

/** Tensors of at least this many bytes stay in the file. */
export const REFERENCE_BYTES = 1024;

/** `external_data.location` that stands for the model file itself; no file can have this name. */
export const SELF = "\0self";

/** Messages that may hold tensors, with the fields that lead there. */
const CHILDREN: Readonly<Record<string, Readonly<Record<number, string>>>> = {
  model: { 7: "graph", 25: "function" },
  graph: { 1: "node", 5: "tensor" },
  function: { 7: "node" },
  node: { 5: "attribute" },
  attribute: { 5: "tensor", 6: "graph" },
};

const MAX_DEPTH = 200;
const WINDOW = 1 << 18;

interface Field {
  readonly number: number;
  readonly wire: number;
  /** Of the tag. */
  readonly start: number;
  /** Of the value, behind its length. */
  readonly value: number;
  readonly end: number;
}

/**
 * Reads a model file without its weights: large `raw_data` (and packed `float_data`) is replaced by external data
 * that points into the same file. What comes back is small however large the file is.
 */
export async function readSkeleton(source: ByteSource): Promise<Uint8Array> {
  const reader = windowReader(source);
  return joinBytes(await message(reader, "model", 0, source.size, 0));
}

interface Reader {
  readonly source: ByteSource;
  byte(at: number): number | Promise<number>;
  bytes(start: number, end: number): Promise<Uint8Array>;
}

function windowReader(source: ByteSource): Reader {
  let from = 0;
  let window: Uint8Array = new Uint8Array(0);
  async function load(at: number, length: number): Promise<void> {
    window = await source.read(at, Math.min(Math.max(length, WINDOW), source.size - at));
    from = at;
  }
  return {
    source,
    byte(at) {
      const known = window[at - from];
      if (known !== undefined) return known;
      if (at >= source.size) throw corrupt(source, "ends inside a field");
      return load(at, 1).then(() => window[at - from] as number);
    },
    async bytes(start, end) {
      if (end - start > WINDOW) return source.read(start, end - start);
      if (start < from || end > from + window.byteLength) await load(start, end - start);
      return window.slice(start - from, end - from);
    },
  };
}

function corrupt(source: ByteSource, what: string): TunesmithError {
  return new TunesmithError("file-corrupt", `${source.name}: not a readable ONNX file (${what})`, {
    fix: "the file is truncated or not an ONNX model; download or export it again",
    details: { name: source.name },
  });
}

async function varint(reader: Reader, at: number, end: number): Promise<{ value: number; next: number }> {
  let value = 0;
  let scale = 1;
  for (let next = at; next < at + 10; next++) {
    if (next >= end) throw corrupt(reader.source, "ends inside a number");
    const read = reader.byte(next);
    const byte = typeof read === "number" ? read : await read;
    value += (byte & 127) * scale;
    if (byte < 128) return { value, next: next + 1 };
    scale *= 128;
  }
  throw corrupt(reader.source, "a number is too long");
}

async function readField(reader: Reader, start: number, end: number): Promise<Field> {
  const tag = await varint(reader, start, end);
  const [number, wire] = [Math.floor(tag.value / 8), tag.value % 8];
  let value = tag.next;
  let after = tag.next;
  if (wire === 0) after = (await varint(reader, value, end)).next;
  else if (wire === 1) after += 8;
  else if (wire === 5) after += 4;
  else if (wire === 2) {
    const length = await varint(reader, value, end);
    value = length.next;
    after = value + length.value;
  } else throw corrupt(reader.source, `field of wire type ${wire} at byte ${start}`);
  if (number === 0 || after > end)
    throw corrupt(reader.source, `field ${number} at byte ${start} is too long`);
  return { number, wire, start, value, end: after };
}

async function message(
  reader: Reader,
  kind: string,
  start: number,
  end: number,
  depth: number,
): Promise<Uint8Array[]> {
  if (depth > MAX_DEPTH) throw corrupt(reader.source, "graphs are nested too deeply");
  if (kind === "tensor") return tensorMessage(reader, start, end);
  const out: Uint8Array[] = [];
  for (let at = start; at < end; ) {
    const field = await readField(reader, at, end);
    const child = field.wire === 2 ? CHILDREN[kind]?.[field.number] : undefined;
    if (child && (field.end - field.value >= REFERENCE_BYTES || child === "graph")) {
      const inner = await message(reader, child, field.value, field.end, depth + 1);
      out.push(lengthHeader(field.number, total(inner)), ...inner);
    } else out.push(await reader.bytes(field.start, field.end));
    at = field.end;
  }
  return out;
}

const total = (parts: readonly Uint8Array[]) => parts.reduce((sum, part) => sum + part.byteLength, 0);

/** TensorProto: 2 data_type, 4 float_data, 9 raw_data, 10 double_data, 13 external_data, 14 data_location. */
async function tensorMessage(reader: Reader, start: number, end: number): Promise<Uint8Array[]> {
  const fields: Field[] = [];
  let dtype = 0;
  for (let at = start; at < end; ) {
    const field = await readField(reader, at, end);
    if (field.number === 2 && field.wire === 0) dtype = (await varint(reader, field.value, end)).value;
    fields.push(field);
    at = field.end;
  }
  const asStored = dtype === 1 ? 4 : dtype === 11 ? 10 : 9;
  const large = fields.filter(
    ({ number, wire, value, end }) =>
      wire === 2 && (number === 9 || number === asStored) && end - value >= REFERENCE_BYTES,
  );
  const [bytes] = large;
  const single =
    bytes && fields.filter(({ number }) => number === bytes.number).length === 1 ? bytes : undefined;
  const out: Uint8Array[] = [];
  for (const field of fields) {
    if (field === single) out.push(...selfReference(field.value, field.end - field.value));
    // Some writers say that the data is here, behind the data: that would undo the reference.
    else if (single && field.number === 14) continue;
    else out.push(await reader.bytes(field.start, field.end));
  }
  return out;
}

function selfReference(offset: number, length: number): Uint8Array[] {
  const utf8 = new TextEncoder();
  const entry = (key: string, value: string) => {
    const [k, v] = [utf8.encode(key), utf8.encode(value)];
    const inner = [lengthHeader(1, k.byteLength), k, lengthHeader(2, v.byteLength), v];
    return [lengthHeader(13, total(inner)), ...inner];
  };
  return [
    ...entry("location", SELF),
    ...entry("offset", String(offset)),
    ...entry("length", String(length)),
    Uint8Array.of(14 * 8, 1),
  ];
}
