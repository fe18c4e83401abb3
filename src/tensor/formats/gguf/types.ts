import type { Dtype } from "../../dtype.js";

/** Value types of GGUF metadata, by their number in the file. */
export const VALUE_TYPES = [
  "uint8",
  "int8",
  "uint16",
  "int16",
  "uint32",
  "int32",
  "float32",
  "bool",
  "string",
  "array",
  "uint64",
  "int64",
  "float64",
] as const;

type ScalarType = Exclude<(typeof VALUE_TYPES)[number], "array">;

/** A plain metadata value; 64-bit integers are numbers where they are exact, else `bigint`. */
export type GgufScalar = number | bigint | boolean | string;

/** A metadata entry with the type it has in the file. */
export type GgufValue =
  | { readonly type: ScalarType; readonly value: GgufScalar }
  | { readonly type: "array"; readonly of: ScalarType; readonly value: readonly GgufScalar[] };

/** How a tensor is stored: as one of our types, or in blocks that are unpacked to float32. */
export interface GgmlType {
  readonly name: string;
  /** Undefined for quantised types. */
  readonly dtype: Dtype | undefined;
  /** Elements of a block. */
  readonly block: number;
  /** Bytes of a block. */
  readonly bytes: number;
}

const plain = (name: string, dtype: Dtype, bytes: number): GgmlType => ({ name, dtype, block: 1, bytes });
const packed = (name: string, block: number, bytes: number): GgmlType => ({
  name,
  dtype: undefined,
  block,
  bytes,
});

/** By the number in the file; what is missing is not read. */
export const GGML_TYPES: Readonly<Record<number, GgmlType>> = {
  0: plain("F32", "float32", 4),
  1: plain("F16", "float16", 2),
  2: packed("Q4_0", 32, 18),
  3: packed("Q4_1", 32, 20),
  6: packed("Q5_0", 32, 22),
  7: packed("Q5_1", 32, 24),
  8: packed("Q8_0", 32, 34),
  10: packed("Q2_K", 256, 84),
  11: packed("Q3_K", 256, 110),
  12: packed("Q4_K", 256, 144),
  13: packed("Q5_K", 256, 176),
  14: packed("Q6_K", 256, 210),
  24: plain("I8", "int8", 1),
  25: plain("I16", "int16", 2),
  26: plain("I32", "int32", 4),
  27: plain("I64", "int64", 8),
  28: plain("F64", "float64", 8),
  30: plain("BF16", "bfloat16", 2),
};

export const MAGIC = 0x46554747;
export const DEFAULT_ALIGNMENT = 32;
export const ALIGNMENT_KEY = "general.alignment";
