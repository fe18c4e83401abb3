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
export { type FolderOptions, TEXT_EXTENSIONS } from "./folder.js";
export { alpacaPrompt, type FieldNames } from "./layouts.js";
export { type LoadDatasetOptions, loadDataset } from "./load.js";
export { type Pack, type PackOptions, packExamples } from "./pack.js";
export { type PreparedRows, type PrepareOptions, paddingId, prepareRows } from "./prepare.js";
export type { RecordFormat } from "./records.js";
export { type Split, type SplitOptions, splitDataset } from "./split.js";
export {
  type TokenizedDataset,
  type TokenizeOptions,
  type TokenizeReport,
  tokenizeExamples,
} from "./tokenize.js";
export type { Dataset, DatasetReport, DroppedRow, Layout, Row, TokenizedExample } from "./types.js";
