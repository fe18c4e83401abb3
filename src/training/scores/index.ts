export * from "./bleu.js";
export * from "./calibration.js";
export * from "./chrf.js";
export {
  accuracy,
  balancedAccuracy,
  type ClassificationOptions,
  type ClassScores,
  type ConfusionMatrix,
  cohenKappa,
  confusionMatrix,
  type F1Report,
  type Label,
  matthewsCorrelation,
  type PrecisionRecallF1,
  precisionRecallF1,
  rocAuc,
} from "./classification.js";
export * from "./comparison.js";
export * from "./edit-distance.js";
export { type ExampleKind, type ExampleOf, exampleSchemas, readExamples } from "./examples.js";
export { type Score, scoreNamed, scoreRegistry } from "./registry.js";
export * from "./regression.js";
export * from "./retrieval.js";
export * from "./rouge.js";
export type { Scheme } from "./schemes.js";
export * from "./spans.js";
export {
  type ExactMatchOptions,
  exactMatch,
  exactMatches,
  squad,
  squadF1Of,
  squadNormalize,
} from "./text-match.js";
