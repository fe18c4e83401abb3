export { exportGraph, type FileGraph, fileGraph, type GraphOptions } from "./graph.js";
export type { AdapterWeights } from "./parameters.js";
export { type Seq2seqGraphs, seq2seqGraphs } from "./seq2seq.js";
export type { ExportVariant } from "./variants.js";
export { type ExportedOnnx, type ExportOptions, exportOnnx, saveOnnxAdapter } from "./write.js";
