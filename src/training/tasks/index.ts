export { type ClassLossOptions, classification, multiLabel } from "./classification.js";
export { type CtcOptions, ctc, ctcFits, ctcLoss } from "./ctc.js";
export {
  cosent,
  cosineSimilarity,
  type EmbeddingLossOptions,
  matryoshka,
  multipleNegatives,
  type RankingOptions,
  triplet,
} from "./embedding.js";
export {
  type ForecastData,
  type ForecastOptions,
  forecastData,
  forecastSizes,
  type SeriesBorders,
  type SeriesScale,
} from "./forecast.js";
export { type MaskOptions, maskedIds } from "./masking.js";
export {
  type AudioOptions,
  type Augmentation,
  audioExamples,
  audioReader,
  augmented,
  type ImageOptions,
  imageExamples,
  imageReader,
} from "./media-examples.js";
export { objectiveFor, type TaskData, type TaskOptions, textLength } from "./objective-for.js";
export { forecast, outputsOf, type Prediction, type PredictOptions, predict } from "./predict.js";
export { type RegressionOptions, regression } from "./regression.js";
export { type RewardOptions, reward } from "./reward.js";
export {
  classExamples,
  exampleList,
  labelSetExamples,
  maskedExamples,
  namesIn,
  numberExamples,
  preferenceExamples,
  scoredPairExamples,
  seq2seqExamples,
  similarityExamples,
  tagExamples,
} from "./text-examples.js";
export { type TextReader, textReader } from "./text-rows.js";
export { answerSpan, IGNORED, tokenLabels } from "./tokens.js";
