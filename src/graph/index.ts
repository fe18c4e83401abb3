export {
  constant,
  describe,
  input,
  makeGraph,
  makeNode,
  type NodeOptions,
  op,
  outputOf,
  scope,
  withScope,
} from "./create.js";
export { decompositionOf, decompositions } from "./decompose/index.js";
export * from "./dims.js";
export { inferOutputs, type OutputSpec } from "./infer/index.js";
export { intsOf, numbersOf } from "./ints.js";
export { type LoadedOnnx, type LoadOptions, loadOnnx, type OnnxMetadata } from "./onnx/decode.js";
export {
  type EncodedParts,
  type EncodeOptions,
  type ExternalRegion,
  encodeGraph,
  encodeParts,
} from "./onnx/encode.js";
export { type SavedOnnx, type SaveOptions, saveOnnx } from "./onnx/save.js";
export * as ops from "./ops/index.js";
export {
  type BatchNormGraph,
  type BatchNormMode,
  type BatchNormOptions,
  batchNormMode,
  type RunningStatistics,
} from "./passes/batch-norm.js";
export { eliminateCommon } from "./passes/cse.js";
export { decompose } from "./passes/decompose.js";
export { type ExtractOptions, extract } from "./passes/extract.js";
export { type ToFloat16Options, toFloat16 } from "./passes/float16.js";
export { type FoldOptions, fold } from "./passes/fold.js";
export { halfWeights } from "./passes/half-weights.js";
export { type InFloat32Options, inFloat32, widenWeights } from "./passes/in-float32.js";
export { bindInputs, type InlineOptions, inlineControlFlow } from "./passes/inline-control.js";
export { lowerMarkers } from "./passes/lower-markers.js";
export { prune } from "./passes/prune.js";
export { type QuantizeGraphOptions, quantizeGraph } from "./passes/quantize.js";
export { specialise } from "./passes/specialise.js";
export * from "./quantize/index.js";
export { type RewriteOptions, recompute, rewrite, rewriteValues, substitute, type Visit } from "./rewrite.js";
export {
  constantsOf,
  dependencies,
  nestedGraphs,
  nodesOf,
  outputNamed,
  reach,
  subgraphs,
  usesOf,
} from "./traverse.js";
export type { Attr, Attrs, Dim, Graph, Node, Shape, Source, Value } from "./types.js";
