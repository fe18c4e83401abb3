export { type BalancedOrder, balancedOrder, TASK_IDS, type TaskBalance } from "./balanced-order.js";
export { baseFingerprint } from "./base-fingerprint.js";
export { type Cadence, cadence } from "./cadence.js";
export * from "./checkpoint.js";
export type { Field } from "./collate-fields.js";
export * from "./early-stopping.js";
export {
  createEvaluator,
  type Evaluation,
  type EvaluationOptions,
  type Evaluator,
  evaluateOnce,
  type LmEvaluation,
} from "./evaluate.js";
export type { PlainData } from "./exact-json.js";
export {
  type FastForward,
  type FastForwardOptions,
  type FastForwardReport,
  type FastForwardStage,
  type FastForwardState,
  fastForward,
} from "./fast-forward.js";
export { fit } from "./fit.js";
export type { FitOptions, Scorer, TrainEvent, TrainResult } from "./fit-types.js";
export { type GenerationScoresOptions, generationScores } from "./generation-scores.js";
export { evaluationGraph, prefixGraphs, type StepGraph, stepGraph } from "./graph.js";
export * from "./guards.js";
export * from "./harness/index.js";
export {
  findLearningRate,
  type LearningRateFinderOptions,
  type LearningRatePoint,
  type LearningRateRange,
} from "./learning-rate-finder.js";
export * from "./loss-spikes.js";
export { crossEntropy, crossEntropyForward } from "./losses/cross-entropy.js";
export { type LogProbOptions, labelLogProbs } from "./losses/log-probs.js";
export { blocksOf } from "./memory-budget.js";
export {
  type FitMemoryOptions,
  fitMemory,
  type LeverMove,
  type MemoryChoice,
  type MemoryLevers,
} from "./memory-levers.js";
export { type MemoryPlan, type MemoryPlanOptions, memoryPlan } from "./memory-plan.js";
export * from "./meters.js";
export * from "./metrics.js";
export { type NextTokenOptions, nextToken, nextTokenBatch, nextTokenBatches } from "./next-token.js";
export type {
  LayOptions,
  LossGraph,
  Objective,
  ScoreKeeper,
  StepBatch,
  StepShape,
} from "./objective.js";
export * from "./objectives/index.js";
export * from "./optim/index.js";
export * from "./scores/index.js";
export { type StepCost, stepCost } from "./step-cost.js";
export { createStepper, type Stepper, type StepperOptions } from "./stepper.js";
export * from "./tasks/index.js";
export {
  type ExampleSource,
  type LossInputs,
  type TensorExample,
  type TensorLoss,
  type TensorObjectiveOptions,
  tensorObjective,
} from "./tensor-objective.js";
export * from "./tracking/index.js";
export { type TrainOptions, train } from "./train.js";
