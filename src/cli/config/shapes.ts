// Fields that several commands have in common.
import { z } from "zod";
import { rowsShape, tokensShape } from "./data-schema.js";

export const count = (least = 1) => z.number().int().min(least);

/** How text becomes rows of tokens. */
export const dataShape = {
  length: count(2)
    .optional()
    .describe("tokens per row; default: 256, or the model's longest if that is shorter"),
  ...rowsShape,
  ...tokensShape,
};

export const runtimeShape = {
  threads: count().optional().describe("threads; default: all processors"),
  batchSize: count().default(4).describe("rows per batch"),
};

/** What is kept of a run besides its result. */
export const trackingShape = {
  track: z
    .union([z.string().min(1), z.literal(false)])
    .meta({ off: "do not record the run" })
    .optional()
    .describe(
      "database to record the run in: SQLite file or postgres:// URL; default: TUNESMITH_TRACK, .tunesmith/runs.sqlite",
    ),
  runName: z
    .string()
    .min(1)
    .optional()
    .describe("name of the recorded run; default: the name of the out folder"),
  tensorboard: z
    .string()
    .min(1)
    .optional()
    .describe("folder for TensorBoard event files, written as it goes"),
  card: z.boolean().default(true).describe("write a model card (README.md) beside the result"),
  license: z.string().min(1).optional().describe("licence named in the model card"),
};

export const modelField = z.string().min(1).describe("model folder, llama2.c .bin, .onnx file or hub id");
export const quantizeField = z
  .enum(["int8", "int8-dynamic", "int4", "nf4", "nf"])
  .optional()
  .describe("keep the weights of linear maps in 8, 4 or, as nf, 3 bits (quantization.md)");
export const quantizedField = z
  .enum(["keep", "requantize", "dequantize"])
  .optional()
  .describe("what becomes of changes to quantised weights");
export const adapterShape = {
  adapter: z.string().min(1).optional().describe("folder of a PEFT adapter to put on the model"),
  anyBase: z.boolean().default(false).describe("apply the adapter although it was trained on another base"),
  adapterTask: z
    .string()
    .min(1)
    .optional()
    .describe(
      "task that an adapter of several (poly) works for, by name or number; default: the one it was saved with",
    ),
};
