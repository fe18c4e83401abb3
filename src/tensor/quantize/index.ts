export {
  type BinaryMatrix,
  type BinaryOptions,
  binaryPlane,
  dequantizeBinary,
  quantizeBinary,
} from "./binary.js";
export { type CodeBits, codeBytes, highPlane, packCodes, unpackCodes } from "./bits.js";
export { dequantizeByMap, dynamicMap, quantizeByMap } from "./dynamic.js";
export { dequantizeInt4, type Int4Layout, type Int4Matrix, quantizeInt4 } from "./int4.js";
export { dequantizeInt8, type Int8Matrix, quantizeInt8, roundHalfEven } from "./int8.js";
export {
  blockMaxima,
  dequantizeMaxima,
  dequantizeNf4,
  NF4,
  type Nf4Matrix,
  type Nf4Maxima,
  nearestNf4,
  quantizeMaxima,
  quantizeNf4,
} from "./nf4.js";
export {
  dequantizeNormalFloat,
  dequantizeScales,
  type NormalFloatLayout,
  type NormalFloatMatrix,
  type NormalFloatScales,
  nearestLevel,
  normalFloatBits,
  normalFloatLevels,
  normalFloatStorage,
  quantizeNormalFloat,
  quantizeScales,
  roundToNormalFloat,
} from "./normal-float.js";
