export { gradients, type Seed, vjp } from "./gradients.js";
export { ruleFor, vjpRules } from "./rules/index.js";
export type { VjpContext, VjpRule, VjpTable } from "./types.js";
export { unbroadcast } from "./unbroadcast.js";
