import { z } from "zod";
import { dataField, rowsShape } from "./data-schema.js";
import { adapterShape } from "./shapes.js";

const count = () => z.number().int().min(1);

export const predictSchema = z.strictObject({
  model: z.string().min(1).describe("model folder, .onnx file, state dict or hub id"),
  ...adapterShape,
  data: dataField,
  task: z
    .enum([
      "sequence-classification",
      "token-classification",
      "regression",
      "seq2seq",
      "embedding",
      "image-classification",
      "audio-classification",
      "forecasting",
    ])
    .optional()
    .describe("what is predicted; default: what the adapter was trained for, or the model's own task"),
  multiLabel: z.boolean().default(false).describe("classes do not exclude one another"),
  length: count().optional().describe("tokens per text at most; default 128"),
  maxTokens: count().default(64).describe("most tokens of a generated text"),
  limit: count().optional().describe("only so many rows"),
  out: z.string().min(1).optional().describe("file for the predictions, as JSONL; default: they are printed"),
  batchSize: count().default(8).describe("rows per batch"),
  threads: count().optional().describe("threads; default: all processors"),
  ...rowsShape,
});
