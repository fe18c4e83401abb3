export { parseExact, stringifyExact } from "../exact-json.js";
export { type ComparedRow, compareRuns, type MetricLine, metricLine, type RunComparison } from "./compare.js";
export { metricsCsv, runJsonLines } from "./export.js";
export { memoryRunStore } from "./memory-store.js";
export {
  cardSections,
  MODEL_CARD_MARK,
  type ModelCardData,
  type ModelCardDataset,
  modelCard,
} from "./model-card.js";
export { findRun, type Liveness, markInterrupted, newRunId } from "./runs.js";
export { type EventFile, openEventFile, tensorboardTag } from "./tensorboard/writer.js";
export { type MetricSink, startTracker, type Tracker, type TrackerOptions } from "./tracker.js";
export type {
  Artifact,
  MetricPoint,
  NewRun,
  RunProgress,
  RunRecord,
  RunStatus,
  RunStore,
  RunUpdate,
} from "./types.js";
