export * from "./cast.js";
export {
  arrayLengthOf,
  arrayOf,
  byteLengthOf,
  type Dtype,
  type DtypeInfo,
  dtypeFromOnnx,
  dtypeInfo,
  dtypes,
  dtypeToOnnx,
  isFloat,
  isInteger,
  type NumericData,
  type TensorData,
} from "./dtype.js";
export * from "./formats/index.js";
export * from "./half.js";
export * from "./pack.js";
export * from "./quantize/index.js";
export { isTensorRef, readRows, readTensor, sliceRef, type TensorRef } from "./ref.js";
export * from "./safetensors/index.js";
export {
  bytesOf,
  elementCount,
  fromBytes,
  reshape,
  rows,
  scalar,
  type Tensor,
  tensor,
  zeros,
} from "./tensor.js";
