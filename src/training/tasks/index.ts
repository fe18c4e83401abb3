export { type ClassLossOptions, classification, multiLabel } from "./classification.js";
export { type RegressionOptions, regression } from "./regression.js";
export { answerSpan, IGNORED, tokenLabels } from "./tokens.js";
