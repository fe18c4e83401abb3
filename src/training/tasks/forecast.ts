import type { Series } from "../../data/index.js";
import { TunesmithError } from "../../errors/index.js";
import type { TensorModel } from "../../models/index.js";
import { type Tensor, tensor } from "../../tensor/index.js";
import { hashWords } from "../hash.js";
import type { ExampleSource } from "../tensor-objective.js";

/** Where the parts of a series end, in steps. */
export interface SeriesBorders {
  readonly train: number;
  readonly validation: number;
  readonly test: number;
}

/** Means and standard deviations per channel. */
export interface SeriesScale {
  readonly mean: readonly number[];
  readonly std: readonly number[];
}

export interface ForecastOptions {
  /** Where the parts end. Default: shares of 0.7, 0.1 and 0.2, as in the benchmarks of Informer (arXiv 2012.07436). */
  readonly borders?: SeriesBorders | undefined;
  /** Subtract mean and divide by standard deviation of the training part. Default true. */
  readonly scale?: boolean | undefined;
  /** Steps between the beginnings of training windows. Default 1. */
  readonly stride?: number | undefined;
}

/** The parts of a series as examples: the future of a window may begin where the part does; its past is before it. */
export interface ForecastData {
  readonly train: ExampleSource;
  readonly validation: ExampleSource;
  readonly test: ExampleSource;
  readonly scale: SeriesScale;
  /** Steps a forecast is made from, and steps forecast. */
  readonly context: number;
  readonly horizon: number;
  readonly channels: number;
}

/** How many steps a forecasting model reads and gives. Throws `task-mismatch`. */
export function forecastSizes({ inputs, config, architecture }: TensorModel): {
  context: number;
  horizon: number;
} {
  const context = inputs.find(({ name }) => name === "past_values")?.shape[1];
  const horizon = Number(config.prediction_filter_length ?? config.prediction_length);
  if (typeof context === "number" && horizon > 0) return { context, horizon };
  throw new TunesmithError("task-mismatch", `${architecture} does not say what it forecasts`, {
    fix: "use a model with past_values of fixed length and prediction_length in its config",
  });
}

/**
 * Windows over a series for a forecasting model, scaled by the training part as the benchmarks do. Throws `data-invalid` when a
 * part is shorter than one window or a value is missing.
 *
 * @example
 * ```ts
 * import { readSeries } from "tunesmith/data";
 * import { loadModel } from "tunesmith/models";
 * import { forecastData } from "tunesmith/training";
 * const model = await loadModel("path/to/ttm", { task: "forecasting" });
 * const data = forecastData(model, await readSeries("ETTh1.csv"), { borders: { train: 8640, validation: 11520, test: 14400 } });
 * console.log(data.train.size, data.test.size);
 * ```
 */
export function forecastData(
  model: TensorModel,
  series: Series,
  options: ForecastOptions = {},
): ForecastData {
  const { context, horizon } = forecastSizes(model);
  const [steps, channels] = series.values.shape as readonly [number, number];
  const borders = options.borders ?? {
    train: Math.floor(steps * 0.7),
    validation: steps - Math.floor(steps * 0.2),
    test: steps,
  };
  const scale = options.scale === false ? neutral(channels) : scaleOf(series.values, borders.train);
  const values = scaled(series.values, scale);
  const part = (from: number, to: number, stride: number) =>
    windows(values, { context, horizon, channels, from, to: Math.min(to, steps), stride });
  return {
    train: part(0, borders.train, options.stride ?? 1),
    validation: part(borders.train - context, borders.validation, 1),
    test: part(borders.validation - context, borders.test, 1),
    scale,
    context,
    horizon,
    channels,
  };
}

const neutral = (channels: number): SeriesScale => ({
  mean: new Array(channels).fill(0),
  std: new Array(channels).fill(1),
});

/** Mean and deviation of the first so many steps. */
function scaleOf({ data, shape }: Tensor, steps: number): SeriesScale {
  const channels = shape[1] as number;
  const columns = Array.from({ length: channels }, (_, channel) =>
    Array.from({ length: steps }, (_, step) => Number(data[step * channels + channel])),
  );
  const mean = columns.map((column) => column.reduce((a, b) => a + b, 0) / steps);
  const std = columns.map((column, at) => {
    const variance = column.reduce((sum, x) => sum + (x - (mean[at] as number)) ** 2, 0) / steps;
    // A channel that does not move stays as it is.
    return Math.sqrt(variance) || 1;
  });
  return { mean, std };
}

function scaled({ data, shape }: Tensor, { mean, std }: SeriesScale): Float32Array {
  const channels = shape[1] as number;
  const missing = (data as Float32Array).findIndex((value) => !Number.isFinite(value));
  if (missing >= 0) {
    throw new TunesmithError(
      "data-invalid",
      `step ${Math.floor(missing / channels)} of the series has no value`,
      {
        fix: "fill the gaps of the series first",
      },
    );
  }
  return (data as Float32Array).map(
    (value, at) => (value - (mean[at % channels] as number)) / (std[at % channels] as number),
  );
}

interface WindowPlan {
  readonly channels: number;
  readonly context: number;
  readonly horizon: number;
  readonly from: number;
  readonly to: number;
  readonly stride: number;
}

function windows(
  values: Float32Array,
  { context, horizon, channels, from, to, stride }: WindowPlan,
): ExampleSource {
  const size = Math.floor((to - from - context - horizon) / stride) + 1;
  if (from < 0 || size < 1) {
    throw new TunesmithError(
      "data-invalid",
      `${to - Math.max(0, from)} steps are too few for a window of ${context} + ${horizon}`,
      { fix: "give a longer series, or a model that reads less" },
    );
  }
  return {
    size,
    hash: hashWords(function* () {
      yield from;
      yield to;
      for (let at = from; at < to; at += 97) yield Math.round((values[at] as number) * 1e6) | 0;
    }),
    at(index) {
      const start = from + index * stride;
      const cut = (begin: number, length: number) =>
        tensor("float32", [length, channels], values.slice(begin * channels, (begin + length) * channels));
      return {
        inputs: { past_values: cut(start, context) },
        targets: { value: cut(start + context, horizon) },
      };
    },
  };
}

/** The last steps of a series as a model reads them, and the way back to its own units. */
export function forecastWindow(model: TensorModel, series: Series, scale?: SeriesScale) {
  const { context } = forecastSizes(model);
  const [steps, channels] = series.values.shape as readonly [number, number];
  if (steps < context) {
    throw new TunesmithError("data-invalid", `a series of ${steps} steps; the model reads ${context}`, {
      fix: "give a longer series",
    });
  }
  const used = scale ?? scaleOf(series.values, steps);
  const values = scaled(series.values, used);
  return {
    past: tensor("float32", [context, channels], values.slice((steps - context) * channels)),
    unscale: (value: number, channel: number) =>
      value * (used.std[channel] as number) + (used.mean[channel] as number),
  };
}
