import { z } from "zod";
import { ADAPTER_FORMATS, arrowSchema, methodNamed, methodNames } from "../../methods/index.js";
import {
  adapterShape,
  count,
  dataShape,
  modelField,
  quantizedField,
  quantizeField,
  runtimeShape,
} from "./shapes.js";
import { trainSchema } from "./train-schema.js";

export { compareSchema, type TrainConfig, trainSchema } from "./train-schema.js";

/** One schema per command: it gives the type, the flags, the help, the published JSON schema and the error messages. */
export const evalSchema = z.strictObject({
  model: modelField.optional(),
  quantize: quantizeField,
  ...adapterShape,
  data: z.string().min(1).optional().describe("JSONL, CSV, TSV or text file, or a folder of source files"),
  task: z
    .enum(["perplexity", "generate", "choices", "classify", "predictions"])
    .default("perplexity")
    .describe(
      "what is asked about each row; perplexity: models of other tasks give the scores of their own; predictions: rows hold them already, and no model is needed",
    ),
  metrics: z.array(z.string()).min(1).optional().describe("scores to compute; default: those of the task"),
  tasks: z.array(z.string()).min(1).optional().describe("task files of the LM evaluation harness"),
  compare: z
    .array(z.string())
    .meta({ several: true })
    .length(2)
    .optional()
    .describe("two files written by --out: compare the runs"),
  out: z.string().min(1).optional().describe("file for the results with all examples, as JSON"),
  examples: z.string().min(1).optional().describe("file for what was asked and answered, as JSONL"),
  limit: count().optional().describe("only so many rows of each task"),
  numFewshot: count(0).optional().describe("solved examples before each question, instead of what tasks say"),
  promptField: z.string().min(1).optional().describe("field with the question; default: by usual names"),
  targetField: z.string().min(1).optional().describe("field with the answer; default: by usual names"),
  labels: z.array(z.string()).min(2).optional().describe("names of the classes; default: those in the data"),
  delimiter: z.string().optional().describe("between question and choice; default: a space"),
  maxTokens: count().default(64).describe("most tokens of a generated answer"),
  stop: z
    .array(z.string().min(1))
    .meta({ verbatim: true })
    .default([])
    .describe("text that ends an answer, default a line end; give it again for another"),
  resamples: count().default(10_000).describe("resamples of a comparison"),
  seed: z.number().int().nonnegative().default(0).describe("seed of a comparison"),
  ...runtimeShape,
  ...dataShape,
});
export type EvalConfig = z.output<typeof evalSchema>;

export const generateFlagsSchema = z.strictObject({
  model: modelField,
  quantize: quantizeField,
  ...adapterShape,
  prompt: z.string().describe("text to continue"),
  chat: z.boolean().default(false).describe("lay the prompt out as a conversation by the model's template"),
  maxTokens: count().default(128).describe("most tokens to generate"),
  temperature: z.number().min(0).default(0).describe("0: always the likeliest token"),
  topK: count().optional().describe("sample among so many likeliest tokens"),
  topP: z
    .number()
    .gt(0)
    .max(1)
    .optional()
    .describe("sample among the likeliest tokens of this total probability"),
  repetitionPenalty: z.number().positive().default(1).describe("above 1: tokens seen before are less likely"),
  stop: z
    .array(z.string().min(1))
    .meta({ verbatim: true })
    .default([])
    .describe("text that ends the generation, taken as it is; give it again for another"),
  seed: z.number().int().nonnegative().default(0).describe("same seed, same text"),
  threads: runtimeShape.threads,
});

export const mergeSchema = z.strictObject({
  model: modelField,
  quantize: quantizeField,
  quantized: quantizedField,
  adapter: z.string().min(1).describe("folder of the PEFT adapter to fold into the weights"),
  anyBase: adapterShape.anyBase,
  adapterTask: adapterShape.adapterTask,
  out: z.string().min(1).describe("folder the merged model is written to"),
});

export const arrowCommandSchema = z.strictObject({
  model: modelField,
  ...arrowSchema.shape,
  out: z.string().min(1).describe("folder the adapter is written to, its experts with it"),
});

export const convertSchema = z
  .strictObject({
    adapter: z
      .string()
      .min(1)
      .describe("adapter to convert: a folder or file; with --to delta, the folder of a fully tuned model"),
    to: z
      .enum([...ADAPTER_FORMATS, "delta", "model"])
      .exclude(["loralib"])
      .describe("format to write; delta: what a tuned model changed; model: a base with a delta added"),
    out: z.string().min(1).describe("folder (peft, mlx, delta, model) or file to write"),
    from: z
      .enum([...ADAPTER_FORMATS, "delta"])
      .optional()
      .describe("format that is read; default: recognised"),
    model: z.string().min(1).optional().describe("base model, for what the format does not say itself"),
    component: z
      .string()
      .min(1)
      .optional()
      .describe(
        "part of the pipeline the adapter is for, in kohya's and diffusers' files: unet, text_encoder",
      ),
    alpha: z.number().positive().optional().describe("alpha of a loralib checkpoint"),
    enableLora: z
      .array(z.boolean())
      .optional()
      .describe("parts of fused projections that a loralib checkpoint adapts"),
    architecture: z.string().min(1).optional().describe("general.architecture of a GGUF file, such as llama"),
    heads: z.number().int().positive().optional().describe("attention heads of the base, for GGUF"),
    kvHeads: z.number().int().positive().optional().describe("key and value heads of the base, for GGUF"),
  })
  .refine(
    ({ to, from, model }) => model !== undefined || (to !== "delta" && to !== "model" && from !== "delta"),
    {
      path: ["model"],
      message: "a delta needs its base",
    },
  );

export const exportSchema = z.strictObject({
  model: modelField,
  ...adapterShape,
  quantized: quantizedField,
  task: z
    .enum([
      "auto",
      "causal-lm",
      "masked-lm",
      "seq2seq",
      "sequence-classification",
      "token-classification",
      "question-answering",
      "image-classification",
      "audio-classification",
      "regression",
      "forecasting",
      "embedding",
      "custom",
    ])
    .default("auto")
    .describe("what the model is for; auto: what the file says"),
  format: z
    .enum(["onnx", "safetensors", "onnx-adapter"])
    .default("onnx")
    .describe("onnx, a Hugging Face folder, or the adapter alone for ONNX Runtime (--out is a file then)"),
  out: z.string().min(1).describe("folder to write to, or the .onnx_adapter file"),
  layout: z
    .enum(["plain", "transformers.js"])
    .optional()
    .describe("model.onnx, or a folder that transformers.js loads (default with --cache)"),
  cache: z.boolean().default(false).describe("language models with past_key_values inputs"),
  adapterWeights: z
    .enum(["merged", "inputs", "optional"])
    .default("merged")
    .describe("fold the adapter in, or let every run feed it, or let a run replace it (see docs/export.md)"),
  variants: z
    .array(z.enum(["fp16", "q8", "q4", "q4f16", "bnb4"]))
    .default([])
    .describe("smaller files beside the first: fp16, q8, q4, q4f16, bnb4"),
  card: z.boolean().default(true).describe("write a model card (README.md)"),
  license: z.string().min(1).optional().describe("licence named in the model card"),
  externalData: z
    .enum(["auto", "always", "never"])
    .default("auto")
    .describe("weights in a file of their own; auto: above 1 GB"),
});

export const inspectSchema = z.strictObject({
  model: modelField,
  targets: z
    .union([z.string(), z.array(z.string())])
    .optional()
    .describe("show which modules these adapter targets match"),
  ...adapterShape,
  prompt: z
    .string()
    .min(1)
    .optional()
    .describe("with an adapter of LoRA: text on which norms in attention are measured instead (methods.md)"),
});

export const quickstartSchema = z.strictObject({
  model: modelField.optional().describe("model to tune; default: the small one that comes along"),
  data: z.string().min(1).default(".").describe("folder or file to learn from; default: the current folder"),
  steps: count().default(120).describe("optimiser steps"),
  out: z
    .string()
    .min(1)
    .default("tunesmith-quickstart")
    .describe("folder for the adapter and the exported model"),
  seed: z.number().int().nonnegative().default(0).describe("seed"),
  threads: runtimeShape.threads,
});

export const methodsSchema = z.strictObject({});

/** The configuration of a run with one method: its own options beside the run's. */
export const runSchema = (method: string): z.ZodObject =>
  trainSchema.extend({
    ...methodNamed(method).options.shape,
    method: z.literal(method).default(method).describe("what is trained"),
  });

/** The options of one method; of none that is unknown, which `runSchema` will say. */
export const methodOptions = (method: string): Record<string, z.ZodType> =>
  methodNames.includes(method) ? (methodNamed(method).options.shape as Record<string, z.ZodType>) : {};

const extendsSchema = {
  description: "configuration files to start from, relative to this one; later ones win, this file over all",
  anyOf: [{ type: "string" }, { type: "array", items: { type: "string" } }],
};

/** The published schema of configuration files: one alternative per method. */
export function configJsonSchema(): Record<string, unknown> {
  const alternatives = methodNames.map((name) => {
    const { $schema: _, ...rest } = z.toJSONSchema(runSchema(name).partial(), { io: "input" });
    const properties = { $schema: { type: "string" }, extends: extendsSchema, ...rest.properties };
    return name === methodNames[0] ? { ...rest, properties } : { ...rest, properties, required: ["method"] };
  });
  return {
    $schema: "https://json-schema.org/draft/2020-12/schema",
    title: "Tunesmith run",
    description: "What `tunesmith train --config FILE` reads, as YAML or JSON. Flags win over the file.",
    ...(alternatives.length === 1 ? alternatives[0] : { anyOf: alternatives }),
  };
}
