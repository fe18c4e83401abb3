export * from "./checkpoint.js";
export * from "./early-stopping.js";
export type { PlainData } from "./exact-json.js";
export * from "./guards.js";
export * from "./meters.js";
export * from "./metrics.js";
export * from "./optim/index.js";
