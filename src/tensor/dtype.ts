import { TunesmithError } from "../errors/index.js";

/** Element types, named as in safetensors' and ONNX' long forms. `int4`/`uint4` are packed, low nibble first. */
export type Dtype =
  | "float32"
  | "float64"
  | "float16"
  | "bfloat16"
  | "int8"
  | "uint8"
  | "int16"
  | "uint16"
  | "int32"
  | "uint32"
  | "int64"
  | "uint64"
  | "bool"
  | "int4"
  | "uint4"
  | "string";

/** Storage of a tensor. Half types are raw bits in a `Uint16Array`, `bool` and 4-bit types live in a `Uint8Array`. */
export type TensorData =
  | Float32Array
  | Float64Array
  | Uint16Array
  | Int8Array
  | Uint8Array
  | Int16Array
  | Int32Array
  | Uint32Array
  | BigInt64Array
  | BigUint64Array
  | readonly string[];

/** The numeric arrays that hold tensor data. */
export type NumericData = Exclude<TensorData, readonly string[]>;

/** Constructor of a numeric array: by length, from values, or as a view of a buffer. */
export interface NumericArrayConstructor {
  readonly BYTES_PER_ELEMENT: number;
  readonly name: string;
  new (length: number): NumericData;
  new (buffer: ArrayBufferLike, byteOffset: number, length: number): NumericData;
}

export interface DtypeInfo {
  readonly kind: "float" | "int" | "uint" | "bool" | "string";
  /** Bits per element in memory and in files; 0 for strings, whose length varies. */
  readonly bits: number;
  /** Array type of `Tensor.data`; undefined for strings, which are a plain array. */
  readonly array: NumericArrayConstructor | undefined;
  /** Name in a safetensors header; undefined where the format has no such type. */
  readonly safetensors: string | undefined;
  /** `TensorProto.DataType` of ONNX. */
  readonly onnx: number;
}

const table: Readonly<Record<Dtype, DtypeInfo>> = {
  float32: { kind: "float", bits: 32, array: Float32Array, safetensors: "F32", onnx: 1 },
  float64: { kind: "float", bits: 64, array: Float64Array, safetensors: "F64", onnx: 11 },
  float16: { kind: "float", bits: 16, array: Uint16Array, safetensors: "F16", onnx: 10 },
  bfloat16: { kind: "float", bits: 16, array: Uint16Array, safetensors: "BF16", onnx: 16 },
  int8: { kind: "int", bits: 8, array: Int8Array, safetensors: "I8", onnx: 3 },
  uint8: { kind: "uint", bits: 8, array: Uint8Array, safetensors: "U8", onnx: 2 },
  int16: { kind: "int", bits: 16, array: Int16Array, safetensors: "I16", onnx: 5 },
  uint16: { kind: "uint", bits: 16, array: Uint16Array, safetensors: "U16", onnx: 4 },
  int32: { kind: "int", bits: 32, array: Int32Array, safetensors: "I32", onnx: 6 },
  uint32: { kind: "uint", bits: 32, array: Uint32Array, safetensors: "U32", onnx: 12 },
  int64: { kind: "int", bits: 64, array: BigInt64Array, safetensors: "I64", onnx: 7 },
  uint64: { kind: "uint", bits: 64, array: BigUint64Array, safetensors: "U64", onnx: 13 },
  bool: { kind: "bool", bits: 8, array: Uint8Array, safetensors: "BOOL", onnx: 9 },
  int4: { kind: "int", bits: 4, array: Uint8Array, safetensors: undefined, onnx: 22 },
  uint4: { kind: "uint", bits: 4, array: Uint8Array, safetensors: undefined, onnx: 21 },
  string: { kind: "string", bits: 0, array: undefined, safetensors: undefined, onnx: 8 },
};

/** All element types, in the order of the table. */
export const dtypes = Object.keys(table) as readonly Dtype[];

const byOnnx = new Map(dtypes.map((dtype) => [table[dtype].onnx, dtype]));
const bySafetensors = new Map(
  dtypes.flatMap((dtype): [string, Dtype][] => {
    const name = table[dtype].safetensors;
    return name === undefined ? [] : [[name, dtype]];
  }),
);

/**
 * Size, storage and file names of an element type.
 *
 * @example
 * ```ts
 * import { dtypeInfo } from "tunesmith/tensor";
 * const { bits, safetensors } = dtypeInfo("bfloat16"); // 16, "BF16"
 * ```
 */
export function dtypeInfo(dtype: Dtype): DtypeInfo {
  return table[dtype];
}

/** The element type of an ONNX `TensorProto.DataType`; throws `dtype-unsupported` for those we lack. */
export function dtypeFromOnnx(code: number): Dtype {
  const dtype = byOnnx.get(code);
  if (dtype !== undefined) return dtype;
  throw new TunesmithError("dtype-unsupported", `ONNX element type ${code} is not supported`, {
    fix: `use one of ${dtypes.join(", ")}`,
    details: { code },
  });
}

/** The ONNX `TensorProto.DataType` of an element type. */
export function dtypeToOnnx(dtype: Dtype): number {
  return table[dtype].onnx;
}

/** The element type of a safetensors name such as `"BF16"`; undefined for those we lack. */
export function dtypeFromSafetensors(name: string): Dtype | undefined {
  return bySafetensors.get(name);
}

/** Bytes that `count` elements take; packed types round up to whole bytes. Throws `dtype-unsupported` for strings. */
export function byteLengthOf(dtype: Dtype, count: number): number {
  const { bits } = table[dtype];
  if (bits === 0) throw noBytes(dtype);
  return bits === 4 ? Math.ceil(count / 2) : count * (bits / 8);
}

/** Elements of the data array for `count` tensor elements: the same number, except for packed types. */
export function arrayLengthOf(dtype: Dtype, count: number): number {
  return table[dtype].bits === 4 ? Math.ceil(count / 2) : count;
}

/** Whether the type is a floating-point one (the half types included). */
export function isFloat(dtype: Dtype): boolean {
  return table[dtype].kind === "float";
}

/** Whether the type is a signed or unsigned integer (not bool). */
export function isInteger(dtype: Dtype): boolean {
  return table[dtype].kind === "int" || table[dtype].kind === "uint";
}

/** The array constructor of a type; throws `dtype-unsupported` for strings. */
export function arrayOf(dtype: Dtype): NumericArrayConstructor {
  const { array } = table[dtype];
  if (array === undefined) throw noBytes(dtype);
  return array;
}

function noBytes(dtype: Dtype): TunesmithError {
  return new TunesmithError("dtype-unsupported", `a ${dtype} tensor has no fixed-size elements`, {
    fix: "convert the strings to numbers first",
    details: { dtype },
  });
}
