export { gradients, type Seed, vjp } from "./gradients.js";
export { vjpRules } from "./rules/index.js";
export { stops } from "./rules/stops.js";
export type { VjpContext, VjpRule, VjpTable } from "./types.js";
export { unbroadcast } from "./unbroadcast.js";
