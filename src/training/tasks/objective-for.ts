import { type Row, type Series, tasksOf } from "../../data/index.js";
import { TunesmithError } from "../../errors/index.js";
import type { TensorModel } from "../../models/index.js";
import type { TaskBalance } from "../balanced-order.js";
import type { PlainData } from "../exact-json.js";
import type { Objective } from "../objective.js";
import { type ExampleSource, type TensorLoss, tensorObjective } from "../tensor-objective.js";
import { type ClassLossOptions, classification, multiLabel } from "./classification.js";
import { cosent, cosineSimilarity, matryoshka, multipleNegatives, triplet } from "./embedding.js";
import { type ForecastOptions, forecastData } from "./forecast.js";
import type { MaskOptions } from "./masking.js";
import { type Augmentation, audioExamples, imageExamples } from "./media-examples.js";
import { type RegressionOptions, regression } from "./regression.js";
import {
  classExamples,
  labelSetExamples,
  maskedExamples,
  numberExamples,
  rowsOfKind,
  scoredPairExamples,
  seq2seqExamples,
  similarityExamples,
  tagExamples,
} from "./text-examples.js";
import { longestText, textReader } from "./text-rows.js";
import { tokenLabels } from "./tokens.js";

/** Rows, or for forecasts a series. */
export type TaskData =
  | { readonly train: readonly Row[]; readonly validation?: readonly Row[] | undefined }
  | { readonly series: Series };

export interface TaskOptions extends ClassLossOptions, MaskOptions, Augmentation, ForecastOptions {
  readonly batchSize: number;
  /** Tokens per text at most; longer ones are cut. Default 128, or the model's longest if that is shorter. */
  readonly length?: number | undefined;
  /** Lengths that rows are padded to. Default: powers of two up to `length`, from 16. */
  readonly lengths?: readonly number[] | undefined;
  /** Classes exclude one another, or a text has several, separated by commas. Default false. */
  readonly multiLabel?: boolean | undefined;
  /** Error of numbers and forecasts. Default `mse`. */
  readonly error?: RegressionOptions["error"];
  /** Loss of vectors; default `multiple-negatives`, for rows with scores `cosent`. */
  readonly loss?: "multiple-negatives" | "triplet" | "cosine" | "cosent" | undefined;
  /** Scale of cosines of vectors. Default 20. */
  readonly similarityScale?: number | undefined;
  /** Learn the first so many numbers of vectors as well. */
  readonly widths?: readonly number[] | undefined;
  /** Rows of a forward pass, for losses over large batches of vectors. */
  readonly forwardRows?: number | undefined;
  /** Batches hold equally many rows of each task; rows say which they are of. Default: rows in any order. */
  readonly balance?: Omit<TaskBalance, "tasks"> | undefined;
  /** Content of the model's preprocessor_config.json. */
  readonly processor?: Readonly<Record<string, unknown>> | undefined;
  /** Seed of masks and augmentation. Default 0. */
  readonly seed?: number | undefined;
}

/** Loss and examples of a task. */
interface Plan {
  readonly loss: TensorLoss;
  readonly examples: (rows: readonly Row[]) => ExampleSource;
}

/**
 * The usual objective of a model's task over rows: loss, batches and scores. Classes are the model's own (`labels` of
 * `loadModel` gives it others).
 *
 * | task | rows | loss |
 * |---|---|---|
 * | masked-lm | text | cross-entropy of hidden words, another choice every epoch |
 * | seq2seq | completion | cross-entropy of the target |
 * | sequence-classification | classification | cross-entropy, or one decision per class |
 * | regression | classification with numbers | squared error |
 * | token-classification | tags | cross-entropy at words' first pieces |
 * | image-classification, audio-classification | image, audio | cross-entropy |
 * | embedding | similarity, or classification with two texts and a score | ranking, triplet, cosine, CoSENT |
 * | forecasting | a series | squared error |
 *
 * Throws `task-mismatch` for tasks without a usual objective (`tensorObjective` takes any loss), `data-invalid` for rows of
 * another kind or with classes the model does not have.
 *
 * @example
 * ```ts
 * import { loadDataset } from "tunesmith/data";
 * import { loadModel } from "tunesmith/models";
 * import { objectiveFor } from "tunesmith/training";
 * const model = await loadModel("path/to/bert", { task: "sequence-classification", labels: ["negative", "positive"] });
 * const { rows } = await loadDataset("reviews.csv");
 * const objective = objectiveFor(model, { train: rows }, { batchSize: 16 });
 * console.log(objective.name);
 * ```
 */
export function objectiveFor(
  model: TensorModel,
  data: TaskData,
  options: TaskOptions,
): Objective<TensorModel> {
  const { batchSize, forwardRows, balance } = options;
  if ("series" in data && balance) {
    throw new TunesmithError("config-invalid", "the windows of a series are of no task", {
      fix: "leave balance out",
    });
  }
  if ("series" in data) return forecastObjective(model, data.series, options);
  const plan = planOf(model, data.train, options);
  const validation =
    data.validation && data.validation.length > 0 ? plan.examples(data.validation) : undefined;
  return tensorObjective(model, {
    train: plan.examples(data.train),
    validation,
    batchSize,
    loss: plan.loss,
    forwardRows,
    balance: balance && { ...balance, tasks: tasksOf(data.train) },
    buckets: bucketsOf(model, options),
    identity: { task: model.task, settings: settingsOf(options) },
  });
}

/** What decides the numbers of a run, as plain data. */
const settingsOf = (options: TaskOptions): PlainData =>
  JSON.parse(JSON.stringify({ ...options, batchSize: undefined })) as PlainData;

/** Forecasts of a series, evaluated on its validation part. */
function forecastObjective(model: TensorModel, series: Series, options: TaskOptions): Objective<TensorModel> {
  const { train, validation, horizon, channels } = forecastData(model, series, options);
  const { batchSize, error } = options;
  return tensorObjective(model, {
    train,
    validation,
    batchSize,
    loss: forecastLoss(horizon, channels, error),
    buckets: { channels: [channels] },
    identity: { task: model.task, settings: settingsOf(options) },
  });
}

/** The loss of forecasts. */
export const forecastLoss = (
  horizon: number,
  channels: number,
  error: RegressionOptions["error"] = "mse",
): TensorLoss => regression({ output: "prediction_outputs", shape: [horizon, channels], error });

const DEFAULT_LENGTH = 128;

/** Tokens per text at most. */
export const textLength = (model: TensorModel, length?: number): number =>
  Math.min(length ?? DEFAULT_LENGTH, longestText(model));

function bucketsOf(model: TensorModel, { length, lengths }: TaskOptions): Record<string, readonly number[]> {
  const longest = textLength(model, length);
  const sizes = lengths ?? powers(longest);
  return Object.fromEntries(["length", "decoder_length"].map((axis) => [axis, sizes]));
}

/** 16, 32, ... and the longest. */
function powers(longest: number): number[] {
  const sizes: number[] = [];
  for (let size = 16; size < longest; size *= 2) sizes.push(size);
  return [...sizes, longest];
}

function planOf(model: TensorModel, rows: readonly Row[], options: TaskOptions): Plan {
  const { task, labels } = model;
  const reader = () => textReader(model, textLength(model, options.length));
  switch (task) {
    case "masked-lm":
      return {
        loss: tokenLabels("length"),
        examples: (given) => maskedExamples(rowsOfKind(given, ["text"], task), reader(), options),
      };
    case "seq2seq":
      return {
        loss: tokenLabels("decoder_length", options),
        examples: (given) => seq2seqExamples(rowsOfKind(given, ["completion"], task), reader()),
      };
    case "sequence-classification":
      return {
        loss: options.multiLabel ? multiLabel() : classification(options),
        examples: (given) => {
          const own = rowsOfKind(given, ["classification"], task);
          return options.multiLabel ? labelSetExamples(own, reader()) : classExamples(own, reader());
        },
      };
    case "regression":
      return {
        loss: regression({ error: options.error }),
        examples: (given) => numberExamples(rowsOfKind(given, ["classification"], task), reader()),
      };
    case "token-classification":
      return {
        loss: tokenLabels("length", { ...options, names: labels }),
        examples: (given) => tagExamples(rowsOfKind(given, ["tags"], task), reader()),
      };
    case "image-classification":
      return {
        loss: classification(options),
        examples: (given) => imageExamples(rowsOfKind(given, ["image"], task), model, options),
      };
    case "audio-classification":
      return {
        loss: classification(options),
        examples: (given) => audioExamples(rowsOfKind(given, ["audio"], task), model, options),
      };
    case "embedding":
      return embeddingPlan(rows, reader, options);
    default:
      throw new TunesmithError("task-mismatch", `there is no usual objective for ${task} over rows`, {
        fix: "give a loss of your own to tensorObjective",
        details: { task },
      });
  }
}

function embeddingPlan(
  rows: readonly Row[],
  reader: () => ReturnType<typeof textReader>,
  { loss: wanted, similarityScale: scale = 20, widths }: TaskOptions,
): Plan {
  const first = rows[0];
  const scored = first?.kind === "classification";
  const negatives = first?.kind === "similarity" ? first.negatives.length : 0;
  const name = wanted ?? (scored ? "cosent" : "multiple-negatives");
  const needsScores = name === "cosent" || name === "cosine";
  if (needsScores !== scored || (name === "triplet" && negatives === 0)) {
    throw new TunesmithError("data-invalid", `the ${name} loss does not fit these rows`, {
      fix: needsScores
        ? "give rows of text, pair and a number as label"
        : "give rows of anchor and positive; for triplets a negative too",
    });
  }
  const losses: Record<typeof name, () => TensorLoss> = {
    "multiple-negatives": () => multipleNegatives({ rows: 2 + negatives, scale }),
    triplet: () => triplet(),
    cosine: () => cosineSimilarity(),
    cosent: () => cosent({ scale }),
  };
  const loss = losses[name]();
  return {
    loss: widths && widths.length > 0 ? matryoshka(loss, widths) : loss,
    examples: (given) =>
      scored
        ? scoredPairExamples(rowsOfKind(given, ["classification"], "embedding"), reader())
        : similarityExamples(
            rowsOfKind(given, ["similarity"], "embedding"),
            reader(),
            name === "triplet" ? 1 : negatives,
          ),
  };
}
