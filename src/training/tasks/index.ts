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
export { type RegressionOptions, regression } from "./regression.js";
export { type RewardOptions, reward } from "./reward.js";
export { answerSpan, IGNORED, tokenLabels } from "./tokens.js";
