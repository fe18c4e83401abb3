export { type Mt19937, mt19937 } from "./mt19937.js";
export { type NumpyGenerator, numpyGenerator } from "./numpy-generator.js";
export { type NumpyRandom, numpyRandom } from "./numpy-random.js";
export { type PythonRandom, pythonRandom } from "./python-random.js";
export { type ChoiceOptions, type Rng, type RngState, resumeRng, rng, type StreamKey } from "./rng.js";
