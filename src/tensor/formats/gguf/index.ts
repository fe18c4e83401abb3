export { type GgufFile, openGguf } from "./read.js";
export type { GgufScalar, GgufValue } from "./types.js";
export { encodeGguf, writeGguf } from "./write.js";
