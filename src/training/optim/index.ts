export * from "./groups.js";
export * from "./optimizers.js";
export * from "./schedules.js";
export * from "./state.js";
export * from "./transforms.js";
export * from "./types.js";
