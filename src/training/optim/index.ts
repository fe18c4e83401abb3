export { loraPlusGroups, noDecayGroup, type ParameterGroup } from "./groups.js";
export * from "./optimizers.js";
export * from "./schedules.js";
export * from "./state.js";
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
  scaleBySchedule,
  trace,
} from "./transforms.js";
export * from "./types.js";
