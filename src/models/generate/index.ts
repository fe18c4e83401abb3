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
export {
  createSeq2seqGenerator,
  generateSeq2seq,
  type Seq2seqGenerator,
  type Seq2seqInput,
  type Seq2seqOptions,
} from "./seq2seq.js";
