import type {
  ClassificationRow,
  CompletionRow,
  MediaRow,
  Row,
  Series,
  TagsRow,
  TextRow,
} from "../../data/index.js";
import { TunesmithError } from "../../errors/index.js";
import { ops } from "../../graph/index.js";
import { createSeq2seqGenerator, type TensorModel } from "../../models/index.js";
import type { SessionOptions } from "../../runtime/index.js";
import type { Tensor } from "../../tensor/index.js";
import { createEvaluator } from "../evaluate.js";
import { type ExampleSource, type TensorExample, tensorObjective } from "../tensor-objective.js";
import { forecastSizes, forecastWindow, type SeriesScale } from "./forecast.js";
import { audioReader, type ImageOptions, imageReader } from "./media-examples.js";
import { textLength } from "./objective-for.js";
import { pairInputs, piecesOf, textInputs, textReader, tokenInputs } from "./text-rows.js";

export interface PredictOptions extends Pick<ImageOptions, "processor"> {
  readonly batchSize: number;
  /** Tokens per text at most. Default 128, or the model's longest. */
  readonly length?: number | undefined;
  /** Classes do not exclude one another. Default false. */
  readonly multiLabel?: boolean | undefined;
  /** Tokens of a generated target at most. Default 64. */
  readonly maxTokens?: number | undefined;
  readonly session?: SessionOptions | undefined;
}

/** What a model says of a row. */
export type Prediction =
  | {
      readonly label: string;
      readonly probability: number;
      readonly probabilities: Readonly<Record<string, number>>;
    }
  | { readonly labels: readonly string[]; readonly probabilities: Readonly<Record<string, number>> }
  | { readonly value: number }
  | { readonly tags: readonly string[] }
  | { readonly text: string }
  | { readonly embedding: readonly number[] };

/** Outputs of a model for inputs, one list of numbers `[...]` per row, by output name. */
export async function outputsOf(
  model: TensorModel,
  rows: readonly (() => TensorExample["inputs"] | Promise<TensorExample["inputs"]>)[],
  outputs: readonly string[],
  { batchSize, session }: Pick<PredictOptions, "batchSize" | "session">,
): Promise<Record<string, { readonly shape: readonly number[]; readonly data: Float32Array }>[]> {
  const source: ExampleSource = {
    size: rows.length,
    hash: "",
    at: async (index) => ({ inputs: (await rows[index]?.()) ?? {}, targets: {} }),
  };
  const found: Record<string, { shape: readonly number[]; data: Float32Array }>[] = [];
  const objective = tensorObjective(model, {
    train: source,
    validation: source,
    batchSize,
    loss: {
      name: "none",
      targets: [],
      outputs,
      sum: () => ops.scalar(0),
      scores: () => ({
        add(given, batch) {
          for (let row = 0; row < batch.size; row++)
            found.push(Object.fromEntries(outputs.map((name) => [name, rowOf(given[name] as Tensor, row)])));
        },
        result: () => ({}),
      }),
    },
  });
  const evaluator = createEvaluator(objective, { session });
  try {
    await evaluator.run(objective.validation?.() ?? []);
  } finally {
    await evaluator.close();
  }
  return found;
}

function rowOf({ data, shape }: Tensor, row: number) {
  const size = shape.slice(1).reduce((a, b) => a * b, 1);
  return { shape: shape.slice(1), data: (data as Float32Array).slice(row * size, (row + 1) * size) };
}

/**
 * Predictions of a model for rows, by its task: classes with probabilities, numbers, tags of words, generated texts, vectors.
 * Labels of the rows are not looked at. Throws `task-mismatch` for tasks that predict nothing about a row, `data-invalid` for rows
 * that the task does not read.
 *
 * @example
 * ```ts
 * import { loadModel } from "tunesmith/models";
 * import { predict } from "tunesmith/training";
 * const model = await loadModel("path/to/classifier", { task: "sequence-classification" });
 * console.log(await predict(model, [{ kind: "text", text: "what a film" }], { batchSize: 8 }));
 * ```
 */
export async function predict(
  model: TensorModel,
  rows: readonly Row[],
  options: PredictOptions,
): Promise<Prediction[]> {
  const { task } = model;
  switch (task) {
    case "seq2seq":
      return generated(model, rows, options);
    case "embedding":
      return (await textOutputs(model, rows, "sentence_embedding", options)).map(({ data }) => ({
        embedding: Array.from(data),
      }));
    case "regression":
      return (await textOutputs(model, rows, "logits", options)).map(({ data }) => ({
        value: data[0] ?? Number.NaN,
      }));
    case "sequence-classification":
      return (await textOutputs(model, rows, "logits", options)).map(({ data }) =>
        classOf(model, data, options),
      );
    case "image-classification":
    case "audio-classification":
      return (await mediaOutputs(model, rows, options)).map(({ data }) => classOf(model, data, options));
    case "token-classification":
      return tagged(model, rows, options);
    default:
      throw new TunesmithError("task-mismatch", `a model for ${task} predicts nothing about a row`, {
        fix: task === "forecasting" ? "give a series to forecast" : "choose a model of another task",
      });
  }
}

function classOf(
  { labels = [] }: TensorModel,
  logits: Float32Array,
  { multiLabel = false }: PredictOptions,
): Prediction {
  const most = logits.reduce((a, b) => Math.max(a, b));
  const weights = Array.from(logits, (x) => (multiLabel ? 1 / (1 + Math.exp(-x)) : Math.exp(x - most)));
  const sum = multiLabel ? 1 : weights.reduce((a, b) => a + b, 0);
  const shares = weights.map((weight) => weight / sum);
  const names = shares.map((_, at) => labels[at] ?? String(at));
  const probabilities = Object.fromEntries(shares.map((share, at) => [names[at] as string, share]));
  if (multiLabel) return { labels: names.filter((_, at) => (shares[at] as number) > 0.5), probabilities };
  const best = shares.indexOf(Math.max(...shares));
  return { label: names[best] as string, probability: shares[best] as number, probabilities };
}

async function textOutputs(
  model: TensorModel,
  rows: readonly Row[],
  output: string,
  options: PredictOptions,
) {
  const reader = textReader(model, textLength(model, options.length));
  const inputs = rows.map((row, at) => () => {
    const { text, pair } = textIn(row, at);
    return pair === undefined ? textInputs(reader, text) : pairInputs(reader, text, pair);
  });
  return (await outputsOf(model, inputs, [output], options)).map(
    (found) => found[output] as { data: Float32Array },
  );
}

/** What of a row is read: its text, or the prompt. */
function textIn(row: Row, at: number): { text: string; pair?: string | undefined } {
  if (row.kind === "text" || row.kind === "classification") return row as TextRow & ClassificationRow;
  if (row.kind === "completion") return { text: (row as CompletionRow).prompt };
  if (row.kind === "similarity") return { text: row.anchor };
  throw new TunesmithError("data-invalid", `row ${at} is a ${row.kind} row, not a text`, {
    fix: "give rows with a text, or read them in another `layout`",
  });
}

async function mediaOutputs(model: TensorModel, rows: readonly Row[], options: PredictOptions) {
  const isImage = model.task === "image-classification";
  const read = isImage ? imageReader(model, options) : audioReader(model, options);
  const inputs = rows.map((row, at) => async () => {
    if (row.kind === (isImage ? "image" : "audio")) {
      const { file } = row as MediaRow;
      return read(await file.read(), file.name);
    }
    throw new TunesmithError(
      "data-invalid",
      `row ${at} is a ${row.kind} row, not ${isImage ? "an image" : "a sound"}`,
      {
        fix: "give a folder or archive of files",
      },
    );
  });
  return (await outputsOf(model, inputs, ["logits"], options)).map(
    (found) => found.logits as { data: Float32Array },
  );
}

async function tagged(
  model: TensorModel,
  rows: readonly Row[],
  options: PredictOptions,
): Promise<Prediction[]> {
  const { tokenizer, maxLength, frame } = textReader(model, textLength(model, options.length));
  const { before, after } = frame;
  const words = rows.map((row, at) =>
    row.kind === "tags"
      ? (row as TagsRow).tokens
      : textIn(row, at)
          .text.split(/\s+/)
          .filter((word) => word !== ""),
  );
  const pieces = words.map((list) => piecesOf(tokenizer, list));
  const room = maxLength - before.length - after.length;
  const inputs = pieces.map(
    (list) => () => tokenInputs(model, [...before, ...list.flat().slice(0, room), ...after]),
  );
  const found = await outputsOf(model, inputs, ["logits"], options);
  const classes = model.labels ?? [];
  return found.map(({ logits }, row) => {
    let at = before.length;
    return {
      tags: (pieces[row] ?? []).map((piece) => {
        const place = at;
        at += piece.length;
        const scores = Array.from(
          (logits?.data ?? new Float32Array(0)).slice(place * classes.length, (place + 1) * classes.length),
        );
        // Words behind the longest row were not seen.
        return place - before.length >= room ? "" : (classes[scores.indexOf(Math.max(...scores))] ?? "");
      }),
    };
  });
}

async function generated(
  model: TensorModel,
  rows: readonly Row[],
  options: PredictOptions,
): Promise<Prediction[]> {
  const generator = await createSeq2seqGenerator(model, options.session);
  const texts = rows.map((row, at) => textIn(row, at).text);
  const found: Prediction[] = [];
  try {
    for (let at = 0; at < texts.length; at += options.batchSize) {
      const batch = texts.slice(at, at + options.batchSize);
      const answers = await generator.generateBatch(batch, { maxTokens: options.maxTokens ?? 64 });
      found.push(...answers.map(({ text }) => ({ text })));
    }
  } finally {
    await generator.close();
  }
  return found;
}

/** The next steps of a series after its end, `[horizon, channels]` in the series' own units. */
export async function forecast(
  model: TensorModel,
  series: Series,
  scale: SeriesScale | undefined,
  options: { readonly session?: SessionOptions | undefined } = {},
): Promise<{ readonly channels: readonly string[]; readonly values: readonly (readonly number[])[] }> {
  const { horizon } = forecastSizes(model);
  const { past, unscale } = forecastWindow(model, series, scale);
  const [found] = await outputsOf(model, [() => ({ past_values: past })], ["prediction_outputs"], {
    batchSize: 1,
    ...options,
  });
  const data = found?.prediction_outputs?.data ?? new Float32Array(0);
  const width = series.channels.length;
  return {
    channels: series.channels,
    values: Array.from({ length: horizon }, (_, step) =>
      Array.from({ length: width }, (_, channel) => unscale(Number(data[step * width + channel]), channel)),
    ),
  };
}
