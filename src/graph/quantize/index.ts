export { type Requantized, requantizeMatrix } from "./grid.js";
export {
  dequantizeMatrix,
  misfitOf,
  normalFloatParts,
  partName,
  type QuantizedMatrix,
  quantizedProduct,
  quantizedWeight,
  quantizeMatrix,
} from "./matrix.js";
export {
  describeQuantization,
  layoutOfNormalFloat,
  type Quantization,
  type QuantizationKind,
  type QuantizationOptions,
  quantizationOf,
} from "./settings.js";
export { type MatrixInMaking, type PendingMatrix, quantizeMatrices, storeMatrices } from "./store.js";
