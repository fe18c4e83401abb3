export { type LogMelOptions, logMel } from "./log-mel.js";
export { resample } from "./resample.js";
export { decodeWav, mono, type Sound } from "./wav.js";
