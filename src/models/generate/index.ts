export {
  createGenerator,
  type GenerateOptions,
  type Generation,
  generate,
  generateSchema,
  type Prompt,
  type StopReason,
  stream,
  type TextGenerator,
} from "./generate.js";
export { chooseToken, type SamplingOptions, samplingSchema } from "./sampling.js";
