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
