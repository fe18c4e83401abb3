import { z } from "zod";
import { adafactor } from "./adafactor.js";
import { dadaptAdagrad, dadaptDualAveraging, dadaptSgd } from "./dadapt.js";
import { dadaptAdam, dadaptAdan, dadaptLion } from "./dadapt-adam.js";
import type { NameRules, ParameterGroup } from "./groups.js";
import { muon } from "./muon.js";
import { adam, adamw, sgd } from "./optimizers.js";
import { prodigy } from "./prodigy.js";
import { adagrad, lamb, lion, nadam, rmsprop } from "./scaled.js";
import { scheduleFreeAdamw, scheduleFreeSgd } from "./schedule-free.js";
import type { Schedule } from "./schedules.js";
import type { Optimizer } from "./types.js";

/** What an optimiser gets besides its own options. */
export interface Shared extends NameRules {
  readonly schedule?: Schedule | undefined;
  readonly groups: readonly ParameterGroup[];
}

/** An optimiser under its name: what a configuration file, a command line or a table knows about it. */
export interface OptimizerEntry {
  readonly name: string;
  /** One line. */
  readonly summary: string;
  /** arXiv identifier; undefined where there is none. */
  readonly paper: string | undefined;
  readonly options: z.ZodObject;
  /** Evaluation sees averaged weights. */
  readonly averages: boolean;
  /** Makes it; `options` are checked. */
  make(options: Readonly<Record<string, unknown>>, shared: Shared): Optimizer;
}

function entry<Shape extends z.ZodRawShape>(
  name: string,
  paper: string | undefined,
  summary: string,
  shape: Shape,
  make: (options: z.output<z.ZodObject<Shape>> & Shared) => Optimizer,
  averages = false,
): OptimizerEntry {
  return {
    ...{ name, paper, summary, averages },
    options: z.strictObject(shape),
    make: (options, shared) => make({ ...options, ...shared } as z.output<z.ZodObject<Shape>> & Shared),
  };
}

const lr = (value: number) => z.number().positive().default(value).describe("learning rate");
const found = () => z.number().positive().default(1).describe("multiplies the learning rate that is found");
const weightDecay = (value: number) => z.number().min(0).default(value).describe("weight decay");
const decayRate = () => z.number().min(0).lt(1);
/** An array of the default's length; tuples have flags of their own kind, arrays are lists of numbers. */
const decays = <T extends readonly number[]>(values: T, what: string): z.ZodDefault<z.ZodType<T>> =>
  z
    .array(decayRate())
    .length(values.length)
    .default([...values])
    .describe(what) as never;
const betas = (first: number, second: number) =>
  decays<readonly [number, number]>([first, second], "decay of the first and second moment");
const eps = (value: number) => z.number().min(0).default(value).describe("added to the denominator");
const momentum = (value: number) => decayRate().default(value).describe("momentum");

const adamShape = {
  betas: betas(0.9, 0.999),
  eps: eps(1e-8),
  amsgrad: z.boolean().default(false).describe("divide by the largest second moment so far (1904.09237)"),
};
const foundShape = {
  lr: found(),
  weightDecay: weightDecay(0),
  d0: z.number().positive().default(1e-6).describe("first estimate of the distance to the solution"),
  growthRate: z
    .number()
    .min(1)
    .optional()
    .describe("largest growth of the estimate per step; 1.02 acts as a warm-up"),
};
const decouple = (value: boolean) =>
  z.boolean().default(value).describe("decay weights apart from the gradient");
const biasCorrection = () => z.boolean().default(false).describe("correct the step size of the first steps");

/**
 * Optimisers whose steps are about as long as the learning rate, whatever the size of the gradient: what a method needs more
 * or less than another with one of them, it needs with the others too.
 */
export const unitSteps: ReadonlySet<string> = new Set([
  "adamw",
  "adam",
  "nadam",
  "lion",
  "schedule-free-adamw",
]);

/** Every optimiser there is; a new one is its file and one entry here. */
export const entries: readonly OptimizerEntry[] = [
  entry(
    "adamw",
    "1711.05101",
    "Adam with decoupled weight decay: the usual choice",
    { lr: lr(2e-4), weightDecay: weightDecay(0), ...adamShape },
    adamw,
  ),
  entry(
    "adam",
    "1412.6980",
    "Adam; weight decay is added to the gradient",
    { lr: lr(2e-4), weightDecay: weightDecay(0), ...adamShape },
    adam,
  ),
  entry(
    "nadam",
    undefined,
    "Adam with Nesterov momentum (Dozat 2016), decoupled weight decay",
    {
      lr: lr(2e-4),
      weightDecay: weightDecay(0),
      betas: betas(0.9, 0.999),
      eps: eps(1e-8),
      momentumDecay: z.number().min(0).default(4e-3).describe("how fast the momentum reaches beta1"),
    },
    nadam,
  ),
  entry(
    "sgd",
    undefined,
    "stochastic gradient descent; weight decay is added to the gradient",
    {
      lr: lr(1e-2),
      weightDecay: weightDecay(0),
      momentum: momentum(0),
      nesterov: z.boolean().default(false).describe("look ahead along the momentum"),
    },
    sgd,
  ),
  entry(
    "adafactor",
    "1804.04235",
    "Adam without momentum that keeps row and column means of the second moment: least memory",
    {
      lr: z
        .number()
        .positive()
        .optional()
        .describe("learning rate; default: 1, a factor of the relative step, without which it is required"),
      weightDecay: weightDecay(0),
      eps: z.number().min(0).default(1e-30).describe("added to squared gradients"),
      minScale: z.number().min(0).default(1e-3).describe("least scale of a parameter"),
      clipThreshold: z.number().positive().default(1).describe("largest root mean square of an update"),
      decayRate: z.number().max(0).default(-0.8).describe("the second moment decays by 1 - step^this"),
      beta1: decayRate().optional().describe("decay of the first moment; default: none is kept"),
      relativeStep: z.boolean().default(true).describe("take min(0.01, 1/sqrt(step)) as learning rate"),
      warmupInit: z.boolean().default(false).describe("relative step: start from 1e-6 and rise"),
      scaleParameter: z.boolean().default(true).describe("multiply steps by the parameter's magnitude"),
      factored: z.boolean().default(true).describe("keep only means of matrices' second moments"),
    },
    adafactor,
  ),
  entry(
    "lion",
    "2302.06675",
    "the sign of momentum: one state per weight; use a tenth of AdamW's learning rate",
    { lr: lr(2e-5), weightDecay: weightDecay(0), betas: betas(0.9, 0.99) },
    lion,
  ),
  entry(
    "rmsprop",
    undefined,
    "gradients over the root of their mean square (Hinton 2012)",
    {
      lr: lr(2e-4),
      weightDecay: weightDecay(0),
      smoothing: decayRate().default(0.99).describe("decay of the mean square"),
      eps: eps(1e-8),
      momentum: momentum(0),
      centered: z.boolean().default(false).describe("divide by the standard deviation instead"),
    },
    rmsprop,
  ),
  entry(
    "adagrad",
    undefined,
    "gradients over the root of the sum of their squares (Duchi et al. 2011)",
    {
      lr: lr(1e-2),
      weightDecay: weightDecay(0),
      startSum: z.number().min(0).default(0).describe("first value of the sums"),
      eps: eps(1e-10),
    },
    ({ startSum, ...rest }) => adagrad({ ...rest, start: startSum }),
  ),
  entry(
    "lamb",
    "1904.00962",
    "AdamW whose steps follow the norm of each tensor: for large batches",
    { lr: lr(2e-3), weightDecay: weightDecay(0), betas: betas(0.9, 0.999), eps: eps(1e-6) },
    lamb,
  ),
  entry(
    "muon",
    "2502.16982",
    "momentum of matrices orthogonalised by Newton-Schulz iteration, AdamW for the rest",
    {
      lr: lr(2e-4),
      weightDecay: weightDecay(0),
      momentum: momentum(0.95),
      nesterov: z.boolean().default(true).describe("look ahead along the momentum"),
      iterations: z.number().int().min(1).max(99).default(5).describe("Newton-Schulz iterations"),
      matrixScale: z
        .enum(["original", "match-rms-adamw", "spectral"])
        .default("match-rms-adamw")
        .describe("how steps follow a matrix's shape; match-rms-adamw: AdamW's learning rates fit"),
      adamFor: z
        .string()
        .optional()
        .describe("matrices for AdamW: a regular expression; default: embeddings and heads"),
      betas: betas(0.9, 0.999),
      eps: eps(1e-8),
    },
    muon,
  ),
  entry(
    "schedule-free-adamw",
    "2405.15682",
    "AdamW that averages its weights instead of decaying its learning rate",
    {
      lr: lr(1e-3),
      weightDecay: weightDecay(0),
      betas: betas(0.9, 0.999),
      eps: eps(1e-8),
      ...averageShape(),
    },
    scheduleFreeAdamw,
    true,
  ),
  entry(
    "schedule-free-sgd",
    "2405.15682",
    "SGD that averages its weights instead of decaying its learning rate",
    {
      lr: lr(1),
      weightDecay: weightDecay(0),
      momentum: z.number().gt(0).lt(1).default(0.9).describe("share of the average in the trained weights"),
      ...averageShape(),
    },
    scheduleFreeSgd,
    true,
  ),
  entry(
    "prodigy",
    "2306.06101",
    "Adam that finds its learning rate, faster than D-Adaptation",
    {
      ...foundShape,
      betas: betas(0.9, 0.999),
      beta3: decayRate().optional().describe("decay of the sums behind the estimate; default: sqrt(beta2)"),
      eps: eps(1e-8),
      decouple: decouple(true),
      biasCorrection: biasCorrection(),
      safeguardWarmup: z.boolean().default(false).describe("keep warm-up from inflating the estimate"),
      dCoefficient: z.number().positive().default(1).describe("multiplies the estimate"),
      estimateEvery: z
        .number()
        .int()
        .min(1)
        .default(1)
        .describe("look at every n-th weight only for the estimate: less memory"),
    },
    ({ estimateEvery, ...rest }) => prodigy({ ...rest, every: estimateEvery }),
  ),
  entry(
    "dadapt-adam",
    "2301.07733",
    "Adam that finds its learning rate",
    {
      ...foundShape,
      betas: betas(0.9, 0.999),
      eps: eps(1e-8),
      decouple: decouple(false),
      biasCorrection: biasCorrection(),
    },
    dadaptAdam,
  ),
  entry(
    "dadapt-sgd",
    "2301.07733",
    "SGD that finds its learning rate",
    { ...foundShape, momentum: momentum(0) },
    dadaptSgd,
  ),
  entry(
    "dadapt-lion",
    "2301.07733",
    "Lion that finds its learning rate (experimental)",
    { ...foundShape, betas: betas(0.9, 0.99) },
    dadaptLion,
  ),
  entry(
    "dadapt-adagrad",
    "2301.07733",
    "Adagrad that finds its learning rate; adapts slowly",
    { ...foundShape, momentum: momentum(0), eps: eps(1e-6) },
    dadaptAdagrad,
  ),
  entry(
    "dadapt-adan",
    "2301.07733",
    "Adan that finds its learning rate",
    {
      ...foundShape,
      weightDecay: weightDecay(0.02),
      betas: decays<readonly [number, number, number]>(
        [0.98, 0.92, 0.99],
        "decay of the gradient, of its change and of the second moment",
      ),
      eps: eps(1e-8),
    },
    dadaptAdan,
  ),
  entry(
    "dadapt-da",
    "2301.07733",
    "dual averaging of the paper's theory: the estimate is a proven bound for convex losses",
    foundShape,
    dadaptDualAveraging,
    true,
  ),
];

function averageShape() {
  return {
    power: z.number().min(0).default(0).describe("later weights count step^power in the average"),
    lrPower: z
      .number()
      .min(0)
      .default(2)
      .describe("weights count (largest learning rate)^this in the average"),
  };
}
