export { compareResults, type ResultComparison } from "./compare.js";
export { type DataTaskKind, type DataTaskOptions, dataTask } from "./data-task.js";
export { readRows } from "./documents.js";
export {
  type LogLikelihood,
  type LogLikelihoodOptions,
  type LogLikelihoodRequest,
  logLikelihoods,
} from "./loglikelihood.js";
export { scorePredictions } from "./predictions.js";
export { type HarnessOptions, type HarnessResults, type HarnessSample, runTasks } from "./run.js";
export { type HarnessTask, loadTask, parseTask } from "./task.js";
