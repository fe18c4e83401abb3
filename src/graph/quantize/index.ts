export { type Requantized, requantizeMatrix } from "./grid.js";
export {
  dequantizeMatrix,
  misfitOf,
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
export { type PendingMatrix, quantizeMatrices } from "./store.js";
