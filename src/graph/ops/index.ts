export { cast, ints, lift, type Operand, scalar, shapeTensor } from "./base.js";
export * from "./elementwise.js";
export * from "./indexing.js";
export * from "./linear.js";
export * from "./markers.js";
export * from "./normalization.js";
export * from "./reduce.js";
export * from "./shape.js";
export * from "./vision.js";
