export type {
  ArchitectureDefinition,
  ArchitecturePart,
  TensorArchitecture,
  TensorDescription,
  Wanted,
} from "./architectures/definition.js";
export {
  architectures,
  type ConvNetConfig,
  type ModelConfig,
  type TorchvisionMobilenetConfig,
  type TorchvisionResnetConfig,
  tensorArchitectures,
} from "./architectures/index.js";
export { type ActivationName, activations } from "./architectures/parts/layers.js";
export type { WeightInit, WeightSpec } from "./architectures/parts/weight-specs.js";
export { type BuildOptions, causalLm } from "./causal-lm.js";
export { loadStateDict, loadWeights, readJson, type StateDict } from "./checkpoint.js";
export { type DeepenOptions, deepenModel } from "./deepen.js";
export { defaultModelPath } from "./default-model.js";
export * from "./export/index.js";
export { inputsOf, parameterFeeds } from "./feeds.js";
export { type FreshHeadOptions, withClasses, withFreshHead } from "./fresh-head.js";
export * from "./generate/index.js";
export { type DownloadProgress, downloadModel, type HubOptions } from "./hub.js";
export { type InitOptions, initModel } from "./init.js";
export { findLlama2c, loadLlama2c } from "./llama2c.js";
export {
  isModelFolder,
  type LoadOptions,
  loadFolder,
  loadModel,
  type ModelFor,
  modelName,
} from "./load.js";
export { type Module, type ModuleKind, modulesOf } from "./modules.js";
export { dropout, type Noise, noise, noiseOf } from "./noise.js";
export { loadOnnxModel } from "./onnx/tensor-model.js";
export { loadOnnxLm } from "./onnx-lm.js";
export { isOfNorm, type Operand, operandsOf } from "./operands.js";
export { endsWithName, matchesPath, userRegex } from "./path-rules.js";
export {
  type AxisSizes,
  axesOf,
  filled,
  inputShape,
  logitsOf,
  type Probe,
  probe,
  probeIds,
  probeOutputs,
  runModel,
  staticInputs,
  tensorInputs,
} from "./probe.js";
export {
  checkPlainBase,
  distinctWeights,
  pendingOf,
  type QuantizeModelOptions,
  quantizableSites,
  quantizeModel,
  replacedProducts,
  withQuantizedSites,
} from "./quantize.js";
export { mainResult, resultsOf, rewriteOutputs, valuesIn } from "./rewrite.js";
export { rowMask, tokenMask } from "./row-mask.js";
export { type SavedModel, type SaveModelOptions, saveModel } from "./save.js";
export { type SequenceHeadOptions, sequenceHead } from "./sequence-head.js";
export {
  type ConvShape,
  type Orientation,
  type QuantisedWeight,
  type Site,
  siteOf,
  sitesOf,
} from "./sites.js";
export { frozenTensor, isForm, storedOf } from "./stored.js";
export {
  type InitTensorOptions,
  initTensorModel,
  type TensorModelOptions,
  tensorModel,
} from "./tensor-model.js";
export * from "./tokenizer/index.js";
export type {
  AnyModel,
  CausalLm,
  DecoderSizes,
  DecodingInputs,
  InputSpec,
  Inputs,
  InputsOf,
  KeyValue,
  LmInputs,
  LmOutputs,
  LmSizes,
  Model,
  ModelBase,
  ModelQuantization,
  Outputs,
  OutputsOf,
  Parameter,
  Parameters,
  Spelling,
  StepInfo,
  Task,
  TensorInputs,
  TensorModel,
  TensorOutputs,
  TrainingHooks,
  Weights,
} from "./types.js";
export { tokenAxes } from "./types.js";
export { nearest } from "./weights.js";
