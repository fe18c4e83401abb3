export { createSession, evaluate, type Session } from "./session.js";
export type { Backend, SessionOptions, TensorMap } from "./ort/types.js";
