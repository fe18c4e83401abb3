export {
  type LogLikelihood,
  type LogLikelihoodOptions,
  type LogLikelihoodRequest,
  logLikelihoods,
} from "./loglikelihood.js";
export { type HarnessOptions, type HarnessResults, type HarnessSample, runTasks } from "./run.js";
export { type HarnessTask, loadTask, parseTask } from "./task.js";
