export { configureRuntime, type RuntimeConfig, type WasmFiles } from "./config.js";
export { forBackend } from "./dialect.js";
export * from "./linalg/index.js";
export type { Backend, SessionOptions, TensorMap } from "./ort/types.js";
export * from "./random/index.js";
export { runtimeGemm } from "./runtime-gemm.js";
export {
  createSession,
  evaluate,
  longRunning,
  PREPACK_BYTES,
  processMemory,
  type Session,
} from "./session.js";
