export { type AdafactorOptions, adafactor } from "./adafactor.js";
export { clipAdaptive } from "./adaptive-clip.js";
export { dadaptAdagrad, dadaptDualAveraging, dadaptSgd } from "./dadapt.js";
export { type DAdaptAdamOptions, dadaptAdam, dadaptAdan, dadaptLion } from "./dadapt-adam.js";
export type { DAdaptOptions } from "./dadapt-common.js";
export { fromStep, fromTransform, type OptimizerOptions, type StepParts } from "./finished.js";
export {
  decayMask,
  layerCount,
  layerwiseDecay,
  loraPlusGroups,
  type NameRules,
  noDecayGroup,
  type ParameterGroup,
} from "./groups.js";
export { type MuonOptions, type MuonScale, muon, newtonSchulz } from "./muon.js";
export * from "./optimizers.js";
export { type ProdigyOptions, prodigy } from "./prodigy.js";
export { quantizedState } from "./quantized.js";
export {
  createOptimizer,
  describeOptimizer,
  type OptimizerContext,
  type OptimizerEntry,
  optimizerModifiers,
  optimizerNamed,
  optimizerNames,
  optimizerOptions,
  stateFactor,
  unitStepRate,
} from "./registry.js";
export * from "./scaled.js";
export { type ScheduleFreeOptions, scheduleFreeAdamw, scheduleFreeSgd } from "./schedule-free.js";
export * from "./schedules.js";
export {
  copyParams,
  createState,
  type FlatOptimizerState,
  flattenOptimizerState,
  forgetMoments,
  parameterOf,
  restoreOptimizerState,
  restoreParams,
  slotOf,
} from "./state.js";
export {
  type AdamOptions,
  addDecayedWeights,
  applyUpdates,
  chain,
  clipByGlobalNorm,
  clipByValue,
  globalNorm,
  type PerParameter,
  scale,
  scaleByAdam,
  scaleByLearningRate,
  scaleByRate,
  scaleBySchedule,
  trace,
} from "./transforms.js";
export * from "./types.js";
export {
  createUpdateSession,
  type UpdateFeed,
  type UpdateGraph,
  type UpdateSession,
  updateGraph,
} from "./update-graph.js";
export type { GraphOptimizerName } from "./update-rules.js";
export { clipped, ema, lookahead, onEvaluationWeights, sam, swa } from "./wrappers.js";
