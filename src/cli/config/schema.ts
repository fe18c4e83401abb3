import { z } from "zod";
import { ADAPTER_FORMATS, alignmentSchema, methodNamed, methodNames } from "../../methods/index.js";
import { objectiveNames } from "../../training/objectives/index.js";
import { optimizerNames, scheduleNames } from "../../training/optim/index.js";
import { bytesField, dataField, rowsShape, tokensShape } from "./data-schema.js";

/** One schema per command: it gives the type, the flags, the help, the published JSON schema and the error messages. */

const count = (least = 1) => z.number().int().min(least);

/** How text becomes rows of tokens. */
const dataShape = {
  length: count(2)
    .optional()
    .describe("tokens per row; default: 256, or the model's longest if that is shorter"),
  ...rowsShape,
  ...tokensShape,
};

const runtimeShape = {
  threads: count().optional().describe("threads; default: all processors"),
  batchSize: count().default(4).describe("rows per batch"),
};

/** What is kept of a run besides its result. */
const trackingShape = {
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

const modelField = z.string().min(1).describe("model folder, llama2.c .bin, .onnx file or hub id");
const quantizeField = z
  .enum(["int8", "int8-dynamic", "int4", "nf4", "nf"])
  .optional()
  .describe("keep the weights of linear maps in 8, 4 or, as nf, 3 bits (quantization.md)");
const quantizedField = z
  .enum(["keep", "requantize", "dequantize"])
  .optional()
  .describe("what becomes of changes to quantised weights");
const adapterShape = {
  adapter: z.string().min(1).optional().describe("folder of a PEFT adapter to put on the model"),
  anyBase: z.boolean().default(false).describe("apply the adapter although it was trained on another base"),
};

const simple = z.union([z.number(), z.string(), z.boolean()]);
/** Options of optimisers as they stand in a file; the optimiser checks them. */
const optimizerOption = z.union([
  simple,
  z.array(z.number()),
  z.array(z.record(z.string(), z.union([simple, z.record(z.string(), simple)]))),
]);

/** Tasks that a model can be trained for. */
const TASKS = [
  "causal-lm",
  "masked-lm",
  "seq2seq",
  "sequence-classification",
  "token-classification",
  "image-classification",
  "audio-classification",
  "regression",
  "forecasting",
  "embedding",
] as const;

const taskOption = z.union([simple, z.array(z.number()), z.record(z.string(), z.number())]);

/** A training run but for its method's own options. */
export const trainSchema = z.strictObject({
  model: modelField,
  quantize: quantizeField,
  data: z
    .union([dataField, z.array(z.string().min(1)).min(1)])
    .meta({ several: true })
    .describe(
      "JSONL, JSON, CSV, TSV, Parquet or text file, a folder of files, or a dataset id of the hub; of several, each is a task",
    ),
  method: z
    .enum(methodNames as [string, ...string[]])
    .default("lora")
    .describe("what is trained"),
  task: z
    .enum(TASKS)
    .optional()
    .describe("what the model is trained for; default: its own, or that of the rows (objectives.md)"),
  taskOptions: z
    .record(z.string(), taskOption)
    .default({})
    .describe("options of the task, such as labelSmoothing, classWeights, multiLabel, loss, flip or spans"),
  head: z
    .array(z.string())
    .min(1)
    .optional()
    .describe("classes of the classifier: how many, or their names; default: those in the data"),
  objective: z
    .enum(objectiveNames as [string, ...string[]])
    .optional()
    .describe("what a language model learns; default: dpo for preference rows, kto for verdicts, else sft"),
  objectiveOptions: z
    .record(z.string(), simple)
    .default({})
    .describe("options of the objective, such as beta or loss (objectives.md)"),
  referenceScores: z
    .string()
    .min(1)
    .optional()
    .describe("dpo: file for the reference's scores, computed once instead of in every step"),
  teacher: z.string().min(1).optional().describe("model to learn from, for distillation"),
  teacherLogits: z
    .string()
    .min(1)
    .optional()
    .describe("distillation: file of the teacher's logits, written with --teacher where it is not there"),
  teacherTop: count()
    .optional()
    .describe("likeliest tokens that are kept in a new file of logits; default: 64"),
  calibrate: count()
    .optional()
    .describe("batches looked at by methods that start from data, such as LoRA with init corda; default: 16"),
  out: z.string().min(1).describe("folder the result is written to"),
  steps: count().optional().describe("optimiser steps; default: from epochs"),
  epochs: z.number().positive().default(1).describe("passes over the data, unless steps are given"),
  seed: z.number().int().nonnegative().default(0).describe("seed of initialisation, order and dropout"),
  optimizer: z
    .enum(optimizerNames as [string, ...string[]])
    .default("adamw")
    .describe("optimiser (optimizers.md)"),
  optimizerOptions: z
    .record(z.string(), optimizerOption)
    .default({})
    .describe("options of the optimiser and of what goes around it, such as betas, loraPlus or emaDecay"),
  lr: z
    .number()
    .positive()
    .optional()
    .describe(
      "learning rate; default: the optimiser's, times what the method needs over LoRA (comparison.md)",
    ),
  schedule: z.enum(scheduleNames).default("linear").describe("learning rate over time"),
  scheduleOptions: z
    .record(z.string(), z.union([z.number(), z.string()]))
    .default({})
    .describe("settings of the schedule, such as minFactor, cycles, power or decaySteps"),
  warmup: z.number().min(0).default(0).describe("warm-up: steps, or below 1 a share of all steps"),
  weightDecay: z.number().min(0).optional().describe("weight decay; default: the optimiser's, mostly 0"),
  maxGradNorm: z.number().positive().default(1).describe("clip the gradients' norm to this"),
  ...runtimeShape,
  accumulate: count().default(1).describe("batches per optimiser step"),
  packing: z
    .enum(["ffd", "sequential", "none"])
    .optional()
    .describe("how examples share rows; default: ffd, none where the model cannot keep them apart"),
  ...dataShape,
  validation: z.string().min(1).optional().describe("data file to evaluate on; default: a part of the data"),
  validationShare: z.number().min(0).lt(1).default(0.1).describe("part of the data held out; 0: none"),
  evalEvery: count(0).default(0).describe("steps between evaluations; 0: only before and after"),
  saveEvery: z
    .union([count(0), z.literal("auto")])
    .default("auto")
    .describe("steps between checkpoints; auto: as often as takes at most 2 % of the time; 0: none"),
  patience: count().optional().describe("stop after so many evaluations without improvement"),
  runDir: z.string().min(1).optional().describe("folder of checkpoints and metrics; default: OUT/.run"),
  resume: z.boolean().default(false).describe("continue from the newest checkpoint"),
  alignment: alignmentSchema
    .optional()
    .describe(
      'Align-LoRA: draw the tasks of the rows (field task, or a data file each) together, as JSON: {"weight": 0.2}',
    ),
  fastForward: z
    .strictObject({
      interval: count().optional(),
      burnIn: count(0).optional(),
      maxTrials: count(0).optional(),
      revert: z.boolean().optional(),
      growth: z.enum(["linear", "geometric"]).optional(),
      patience: count().optional(),
      adaptive: z.boolean().optional(),
      validationBatches: count().optional(),
    })
    .optional()
    .describe('Fast Forward stages between steps, as JSON: {"interval": 6, "validationBatches": 2}'),
  stopOn: z
    .string()
    .min(1)
    .optional()
    .describe("what patience and the best checkpoint go by, such as perplexity; default: the loss"),
  stopMode: z.enum(["min", "max"]).default("min").describe("whether what they go by should fall or rise"),
  lossSpike: z
    .enum(["skip", "stop"])
    .optional()
    .describe("what to do with an update whose loss is three times the recent median; default: make it"),
  findLr: z
    .boolean()
    .default(false)
    .describe("train a few steps with growing learning rates, print which one suits, and save nothing"),
  memory: bytesField
    .optional()
    .describe("what the run may take, such as 2GB: settings below are changed as little as makes it fit"),
  recompute: z.boolean().default(false).describe("recompute activations: less memory, more time"),
  recomputeBlocks: count().optional().describe("recompute the activations of so many blocks only"),
  chunkRows: count().optional().describe("rows of logits at one time; default: as many as fit 16 MB"),
  prepack: z.boolean().default(true).describe("keep repacked copies of the weights of small models"),
  prefixCache: bytesField
    .default(0)
    .describe("keep activations below the first trained layer, up to so much memory"),
  ...trackingShape,
  dryRun: z.boolean().default(false).describe("print parameters, steps and memory, and train nothing"),
});
/** Several methods under the settings of one run; each keeps its own defaults for its own options. */
export const compareSchema = trainSchema
  .omit({
    ...{ method: true, out: true, runDir: true, resume: true, dryRun: true, saveEvery: true },
    ...{ evalEvery: true, patience: true, stopOn: true, stopMode: true, memory: true, findLr: true },
    ...{ track: true, runName: true, tensorboard: true, card: true, license: true },
  })
  .extend({
    methods: z.array(z.string().min(1)).min(1).describe("methods to compare"),
    options: z
      .record(z.string(), z.record(z.string(), z.unknown()))
      .default({})
      .describe("options of single methods, by method: {lora: {rank: 16, lr: 1e-3}}"),
    budgetParameters: count()
      .optional()
      .describe("equal size: each method trains as many numbers as it can without going over this"),
    budgetSeconds: z
      .number()
      .positive()
      .optional()
      .describe("equal time: each method takes as many steps as fit in so many seconds, instead of --steps"),
    out: z
      .string()
      .min(1)
      .optional()
      .describe("name of the files with the figures and the chart, without ending"),
  });

export type TrainConfig = z.output<typeof trainSchema>;

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
  out: z.string().min(1).describe("folder the merged model is written to"),
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
