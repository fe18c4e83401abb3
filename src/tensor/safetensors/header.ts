import { TunesmithError } from "../../errors/index.js";
import { byteLengthOf, type Dtype, dtypeFromSafetensors } from "../dtype.js";
import { duplicateKey } from "./json.js";

/** The reference implementation's limit on the header. */
export const MAX_HEADER_BYTES = 100_000_000;

/** Names of element types that the format knows and we do not hold. */
const foreignDtypes = [
  "F4",
  "F6_E2M3",
  "F6_E3M2",
  "F8_E5M2",
  "F8_E4M3",
  "F8_E8M0",
  "F8_E4M3FNUZ",
  "F8_E5M2FNUZ",
  "C64",
];

export interface HeaderEntry {
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  /** Bytes from the start of the file. */
  readonly offset: number;
  readonly byteLength: number;
}

export interface Header {
  readonly metadata: ReadonlyMap<string, string>;
  readonly entries: ReadonlyMap<string, HeaderEntry>;
}

/** The length of the header from the first 8 bytes. Throws `file-corrupt` unless it fits the file and the limit. */
export function headerLength(file: string, fileSize: number, first: Uint8Array): number {
  const view = new DataView(first.buffer, first.byteOffset, 8);
  const length = view.getUint32(0, true) + view.getUint32(4, true) * 2 ** 32;
  if (length <= MAX_HEADER_BYTES && length <= fileSize - 8) return length;
  throw corrupt(
    file,
    length > MAX_HEADER_BYTES
      ? `it announces a header of ${length} bytes, more than the limit of ${MAX_HEADER_BYTES}`
      : `it announces a header of ${length} bytes, but has ${fileSize} bytes in all`,
    "check that this is a safetensors file; if it is, it is truncated: download it again",
  );
}

/**
 * Parses and checks a safetensors header. Every byte of the data must belong to exactly one tensor.
 *
 * @param bytes The header without its 8 length bytes.
 * Throws `file-corrupt`, and `dtype-unsupported` for an element type that the library does not hold.
 */
export function parseHeader(file: string, fileSize: number, bytes: Uint8Array): Header {
  const root = parseJson(file, bytes);
  const dataStart = 8 + bytes.byteLength;
  const entries = new Map<string, HeaderEntry>();
  let metadata: ReadonlyMap<string, string> = new Map();
  for (const [name, value] of Object.entries(root)) {
    if (name === "__metadata__") metadata = parseMetadata(file, value);
    else entries.set(name, parseEntry(file, name, value, dataStart, fileSize));
  }
  checkLayout(file, entries, dataStart, fileSize);
  return { metadata, entries };
}

function parseJson(file: string, bytes: Uint8Array): Record<string, unknown> {
  let text: string;
  let value: unknown;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
    value = JSON.parse(text);
  } catch (cause) {
    throw corrupt(
      file,
      `its header is not JSON (${cause instanceof Error ? cause.message.slice(0, 100) : "unreadable"})`,
      "check that this is a safetensors file, and copy or download it again",
      { cause },
    );
  }
  if (!isObject(value) || bytes[0] !== 0x7b)
    throw corrupt(file, "its header is not a JSON object", "write the file again");
  const twice = duplicateKey(text);
  if (twice !== undefined) {
    throw corrupt(
      file,
      `its header has two entries ${quote(twice)}`,
      "write the file again with unique names",
      {
        name: twice,
      },
    );
  }
  return value;
}

function parseMetadata(file: string, value: unknown): ReadonlyMap<string, string> {
  // MLX writes null where it has none, and the reference reads that.
  if (value === null) return new Map();
  const pairs = isObject(value) ? Object.entries(value) : undefined;
  if (pairs?.every((pair): pair is [string, string] => typeof pair[1] === "string")) return new Map(pairs);
  throw corrupt(file, "its __metadata__ is not a map of strings", "write every metadata value as a string");
}

function parseEntry(
  file: string,
  name: string,
  value: unknown,
  dataStart: number,
  fileSize: number,
): HeaderEntry {
  const bad = (what: string, fix = "write the file again, or download it again") =>
    corrupt(file, `tensor ${quote(name)}: ${what}`, fix, { name });
  if (!isObject(value)) throw bad("its entry is not an object");
  const { dtype: typeName, shape, data_offsets: offsets } = value;
  if (!isLengths(shape)) throw bad("its shape is not a list of non-negative integers");
  if (!isLengths(offsets) || offsets.length !== 2)
    throw bad("its data_offsets are not two non-negative integers");
  const [begin, end] = offsets as [number, number];
  if (begin > end) throw bad(`its data ends at ${end} before it begins at ${begin}`);
  if (end > fileSize - dataStart) {
    throw bad(
      `its data ends at byte ${dataStart + end} of a file of ${fileSize}`,
      "the file is truncated; download it again",
    );
  }
  const dtype = parseDtype(file, name, typeName);
  let count = 1;
  for (const length of shape) {
    count *= length;
    if (!Number.isSafeInteger(count)) throw bad("its shape has more elements than any file can hold");
  }
  const wanted = byteLengthOf(dtype, count);
  if (wanted !== end - begin) {
    throw bad(
      `${dtype} of shape [${shape.slice(0, 8).join(", ")}] takes ${wanted} bytes, but its data has ${end - begin}`,
    );
  }
  return { dtype, shape, offset: dataStart + begin, byteLength: wanted };
}

function parseDtype(file: string, name: string, typeName: unknown): Dtype {
  const dtype = typeof typeName === "string" ? dtypeFromSafetensors(typeName) : undefined;
  if (dtype !== undefined) return dtype;
  if (typeof typeName === "string" && foreignDtypes.includes(typeName)) {
    throw new TunesmithError("dtype-unsupported", `${file}: tensor ${quote(name)} is of type ${typeName}`, {
      fix: "convert it to F32, F16 or BF16 first; 4-bit, 6-bit, 8-bit float and complex tensors are not supported",
      details: { file, name, dtype: typeName },
    });
  }
  throw corrupt(
    file,
    `tensor ${quote(name)}: unknown dtype ${typeof typeName === "string" ? quote(typeName) : `(${typeof typeName})`}`,
    "write the file again with a type that safetensors defines",
    { name },
  );
}

/** The tensors must cover the data exactly: no overlap, no hole, nothing behind the last one. */
function checkLayout(
  file: string,
  entries: ReadonlyMap<string, HeaderEntry>,
  dataStart: number,
  fileSize: number,
): void {
  const ordered = [...entries].sort(([, a], [, b]) => a.offset - b.offset || a.byteLength - b.byteLength);
  let position = dataStart;
  let previous = "the header";
  for (const [name, { offset, byteLength }] of ordered) {
    if (offset !== position) {
      const what = offset < position ? "overlaps" : `leaves a hole of ${offset - position} bytes behind`;
      throw corrupt(file, `tensor ${quote(name)} ${what} ${previous}`, "write the file again", {
        name,
        offset,
      });
    }
    position += byteLength;
    previous = `tensor ${quote(name)}`;
  }
  if (position === fileSize) return;
  throw corrupt(
    file,
    `${fileSize - position} bytes behind the last tensor belong to none`,
    "the file is not a plain safetensors file, or its header was changed; download it again",
  );
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isLengths(value: unknown): value is number[] {
  return (
    Array.isArray(value) &&
    value.every((item) => Number.isSafeInteger(item) && item >= 0 && !Object.is(item, -0))
  );
}

/** A name for a message: quoted, and cut, because a file may hold one of any length. */
export function quote(name: string): string {
  return JSON.stringify(name.length > 120 ? `${name.slice(0, 120)}...` : name);
}

/** The error for a file that breaks the format. */
export function corrupt(
  file: string,
  message: string,
  fix: string,
  details: { cause?: unknown; [key: string]: unknown } = {},
): TunesmithError {
  const { cause, ...rest } = details;
  return new TunesmithError("file-corrupt", `${file}: ${message}`, {
    fix,
    cause,
    details: { file, ...rest },
  });
}
