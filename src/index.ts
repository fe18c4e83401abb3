/**
 * Tunesmith adapts models: a model is an ONNX graph, an adaptation rewrites it, training is the same graph
 * differentiated. This module gathers what programs need; each floor has more under its own name
 * (`tunesmith/tensor`, `tunesmith/graph`, `tunesmith/autodiff`, `tunesmith/runtime`, ...).
 *
 * @module
 */

export { gradients } from "./autodiff/index.js";
export * from "./data/index.js";
export { type ErrorCode, errorMeanings, TunesmithError } from "./errors/index.js";
export * as graph from "./graph/index.js";
export { removeStoredFiles, type StoredFiles, storedFiles, storeFiles, zipFolder } from "./io/index.js";
export * from "./methods/index.js";
export * as methods from "./methods/index.js";
export * from "./models/index.js";
export {
  type Backend,
  configureRuntime,
  createSession,
  evaluate,
  type RuntimeConfig,
  rng,
  type Session,
  type SessionOptions,
} from "./runtime/index.js";
export { openSafetensors, type Tensor, tensor, writeSafetensors } from "./tensor/index.js";
export * from "./training/index.js";
