import { z } from "zod";
import { alignmentSchema, methodNames } from "../../methods/index.js";
import { objectiveNames } from "../../training/objectives/index.js";
import { optimizerNames, scheduleNames } from "../../training/optim/index.js";
import { bytesField, dataField } from "./data-schema.js";
import { count, dataShape, modelField, quantizeField, runtimeShape, trackingShape } from "./shapes.js";

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
