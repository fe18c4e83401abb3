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
export * from "./dims.js";
export { inferOutputs, type OutputSpec } from "./infer/index.js";
export { intsOf, numbersOf } from "./ints.js";
export {
  type EncodedParts,
  type EncodeOptions,
  type ExternalRegion,
  encodeGraph,
  encodeParts,
} from "./onnx/encode.js";
export * as ops from "./ops/index.js";
export { lowerMarkers } from "./passes/lower-markers.js";
export { recompute, rewrite, type RewriteOptions, rewriteValues, substitute, type Visit } from "./rewrite.js";
export { constantsOf, dependencies, nodesOf, outputNamed, reach, subgraphs, usesOf } from "./traverse.js";
export type { Attr, Attrs, Dim, Graph, Node, Shape, Source, Value } from "./types.js";
