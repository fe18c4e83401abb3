export type { ArchitectureDefinition } from "./architecture.js";
export { loadWeights, readJson } from "./checkpoint.js";
export { dropout, dropoutOf } from "./dropout.js";
export { inputsOf, parameterFeeds } from "./feeds.js";
export { isModelFolder, loadFolder, modelName } from "./load.js";
export { logitsOf, probeIds, probeOutputs, staticInputs } from "./probe.js";
export { architectures, type BuildOptions, causalLm } from "./registry.js";
export { rewriteOutputs } from "./rewrite.js";
export { type Orientation, type Site, siteOf, sitesOf } from "./sites.js";
export * from "./tokenizer/index.js";
export type {
  CausalLm,
  KeyValue,
  LmInputs,
  LmOutputs,
  LmSizes,
  Parameter,
  Parameters,
  Weights,
} from "./types.js";
export { tokenAxes } from "./types.js";
export { nearest } from "./weights.js";
