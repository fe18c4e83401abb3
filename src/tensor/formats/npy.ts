import { type ByteSource, type FileLocation, openFile } from "#io";
import type { TunesmithError } from "../../errors/index.js";
import { corrupt } from "../safetensors/header.js";
import { isSource } from "../safetensors/reader.js";
import { bytesOf, elementCount, type Tensor } from "../tensor.js";
import { type Cursor, parseGrowing } from "./cursor.js";
import { decodeNumpy, encodeTexts, type NumpyType, numpyBytes, numpyDescr, numpyType } from "./npy-dtype.js";
import type { StoredTensor } from "./stored.js";
import { fortranStrides, gather } from "./strided.js";

const MAGIC = "\x93NUMPY";
const ALIGNMENT = 64;

/** What a `.npy` header says. */
export interface NpyHeader {
  readonly type: NumpyType;
  readonly shape: readonly number[];
  readonly fortran: boolean;
  /** Where the values begin. */
  readonly dataStart: number;
}

/** Parses a `.npy` header (versions 1 to 3). Throws `file-corrupt`, `dtype-unsupported`. */
export function parseNpyHeader(cursor: Cursor, file: string): NpyHeader {
  const magic = cursor.left >= 10 ? String.fromCharCode(...cursor.take(6)) : "";
  if (magic !== MAGIC) throw cursor.bad("it does not begin as one");
  const version = cursor.u16() & 0xff;
  if (version < 1 || version > 3) throw cursor.bad(`version ${version} is unknown`);
  const text = cursor.text(version === 1 ? cursor.u16() : cursor.u32());
  const field = (key: string, value: string) => new RegExp(`['"]${key}['"]\\s*:\\s*${value}`).exec(text)?.[1];
  const fortran = field("fortran_order", "(True|False)");
  const shape = field("shape", "\\(([\\d,\\sL]*)\\)");
  if (fortran === undefined || shape === undefined) throw cursor.bad("its header lacks order or shape");
  const descr = field("descr", "['\"]([^'\"]{1,40})['\"]");
  // A list of fields, the type of record arrays, is not a quoted name.
  const type = numpyType(descr ?? "V", file);
  const lengths = (shape.match(/\d+/g) ?? []).map(Number);
  elementCount(lengths, file);
  return { type, shape: lengths, fortran: fortran === "True", dataStart: cursor.position };
}

/** The tensor of an array's bytes as they are in the file. */
export function decodeNpy(header: NpyHeader, bytes: Uint8Array): Tensor {
  const { type, shape, fortran } = header;
  if (!fortran || shape.length < 2) return decodeNumpy(type, shape, bytes);
  const flat = decodeNumpy(type, [elementCount(shape)], bytes);
  if (flat.dtype !== "string") {
    return gather({ dtype: flat.dtype, shape, strides: fortranStrides(shape), offset: 0 }, bytesOf(flat));
  }
  // Text has no fixed-size elements: gather the positions, then the texts.
  const positions = Uint32Array.from({ length: flat.data.length }, (_, index) => index);
  const view = { dtype: "uint32", shape, strides: fortranStrides(shape), offset: 0 } as const;
  const order = gather(view, new Uint8Array(positions.buffer)).data as Uint32Array;
  return { dtype: "string", shape: [...shape], data: Array.from(order, (at) => String(flat.data[at])) };
}

/**
 * A `.npy` array inside a source. Row-major little-endian numbers become a reference into it, others are converted when
 * they are loaded.
 */
export function storedNpy(
  source: ByteSource,
  start: number,
  header: NpyHeader,
  end: number,
  name: string,
): StoredTensor {
  const { type, shape, fortran } = header;
  const byteLength = npyBytes(header, end - start, name);
  const offset = start + header.dataStart;
  const plain = !type.text && (!type.bigEndian || type.width === 1) && (!fortran || shape.length < 2);
  if (plain) return { dtype: type.dtype, shape, source, offset, byteLength, name };
  const load = async () => decodeNpy(header, await source.read(offset, byteLength));
  return { dtype: type.dtype, shape, load };
}

/** Bytes of the values. Throws `file-corrupt` unless the file of `size` bytes holds them. */
export function npyBytes(header: NpyHeader, size: number, name: string): number {
  const bytes = numpyBytes(header.type, elementCount(header.shape, name));
  if (header.dataStart + bytes <= size) return bytes;
  throw truncated(name, bytes, Math.max(0, size - header.dataStart));
}

function truncated(name: string, wanted: number, found: number): TunesmithError {
  return corrupt(
    name,
    `the array takes ${wanted} bytes, but ${found} are there`,
    "copy or download the file again",
  );
}

/** An open `.npy` file. */
export interface NpyFile {
  readonly name: string;
  readonly array: StoredTensor;
  close(): Promise<void>;
}

/**
 * Opens a numpy `.npy` file: numbers and booleans of either byte order and either memory order, and fixed-width text, which
 * becomes a `string` tensor. The array is row-major once it is loaded.
 *
 * Throws `file-corrupt`, and `dtype-unsupported` for Python objects, dates, complex numbers and records.
 *
 * @param location A path, URL, `Blob`, or an open source (which `close()` then closes).
 * @example
 * ```ts
 * import { loadStored, openNpy } from "tunesmith/tensor";
 * const file = await openNpy("embeddings.npy");
 * const { dtype, shape, data } = await loadStored(file.array);
 * await file.close();
 * ```
 */
export async function openNpy(location: FileLocation | ByteSource): Promise<NpyFile> {
  const source = isSource(location) ? location : await openFile(location);
  try {
    const header = await parseGrowing(source, 0, "npy", (cursor) => parseNpyHeader(cursor, source.name));
    const array = storedNpy(source, 0, header, source.size, source.name);
    return { name: source.name, array, close: () => source.close() };
  } catch (error) {
    await source.close();
    throw error;
  }
}

export interface NpyOptions {
  /** Write column-major (`order="F"`). Default false. */
  readonly fortran?: boolean;
}

/**
 * The bytes of a `.npy` file, version 1. Throws `dtype-unsupported` for bfloat16 and 4-bit tensors,
 * which numpy lacks.
 *
 * @example
 * ```ts
 * import { encodeNpy, tensor } from "tunesmith/tensor";
 * const bytes = encodeNpy(tensor("float32", [2, 2], [1, 2, 3, 4]));
 * ```
 */
export function encodeNpy(tensor: Tensor, options: NpyOptions = {}): Uint8Array {
  const descr = numpyDescr(tensor, "array");
  const fortran = (options.fortran ?? false) && tensor.shape.length > 1;
  const values = fortran ? transposed(tensor) : tensor;
  const data =
    values.dtype === "string" ? encodeTexts(values.data as readonly string[], descr) : bytesOf(values);
  const shape = tensor.shape.length === 1 ? `(${tensor.shape[0]},)` : `(${tensor.shape.join(", ")})`;
  const fields = `{'descr': '${descr}', 'fortran_order': ${fortran ? "True" : "False"}, 'shape': ${shape}, }`;
  const fixed = 10;
  const padded = Math.ceil((fixed + fields.length + 1) / ALIGNMENT) * ALIGNMENT;
  const head = new TextEncoder().encode(`${fields.padEnd(padded - fixed - 1)}\n`);
  const out = new Uint8Array(padded + data.byteLength);
  out.set([0x93, 0x4e, 0x55, 0x4d, 0x50, 0x59, 1, 0]);
  new DataView(out.buffer).setUint16(8, head.byteLength, true);
  out.set(head, fixed);
  out.set(data, padded);
  return out;
}

/** The values in column-major order, as one row. */
function transposed(tensor: Tensor): Tensor {
  const { shape } = tensor;
  const count = elementCount(shape);
  let stride = 1;
  const rowMajor = [...shape].reverse().map((length) => {
    const own = stride;
    stride *= length;
    return own;
  });
  const view = { shape: [...shape].reverse(), strides: rowMajor, offset: 0 };
  if (tensor.dtype === "string") {
    const positions = Uint32Array.from({ length: count }, (_, index) => index);
    const order = gather({ ...view, dtype: "uint32" }, new Uint8Array(positions.buffer)).data as Uint32Array;
    return { ...tensor, shape: [count], data: Array.from(order, (at) => String(tensor.data[at])) };
  }
  return { ...gather({ ...view, dtype: tensor.dtype }, bytesOf(tensor)), shape: [count] };
}
