export * from "./audio/index.js";
export {
  type BatchOptions,
  type BatchPlanOptions,
  type BatchState,
  batches,
  chooseLengths,
  type LoadedBatch,
  type PlannedBatch,
  planBatches,
} from "./batches.js";
export { type BpeTokenizerJson, type TrainBpeOptions, trainBpe } from "./bpe/index.js";
export { type Batch, type CollateOptions, collate, IGNORED_LABEL } from "./collate.js";
export * from "./doctor/index.js";
export { type HubDatasetOptions, openHubDataset } from "./hub.js";
export * from "./image/index.js";
export { alpacaPrompt, detectLayout, FIELD_NAMES, type FieldName, type FieldNames } from "./layouts/index.js";
export { type LoadDatasetOptions, loadDataset, openDataset, streamOf } from "./load.js";
export { type Pack, type PackOptions, packExamples } from "./pack.js";
export { type Partition, type PartitionOptions, partitionRows } from "./partition.js";
export { type PreparedRows, type PrepareOptions, paddingId, prepareRows } from "./prepare.js";
export * from "./readers/index.js";
export { answerRow, labelNames, tasksOf, textsOf } from "./rows.js";
export { type Split, type SplitOptions, splitDataset } from "./split.js";
export { openRows, type RowBatch, type RowStream, type StreamOptions } from "./stream.js";
export { type ResolvedTemplate, readTemplate, resolveTemplate, writeTemplate } from "./template.js";
export {
  type TokenizedDataset,
  type TokenizeOptions,
  type TokenizeReport,
  tokenizeExamples,
} from "./tokenize.js";
export type * from "./types.js";
export { LAYOUTS } from "./types.js";
