import type { Tensor } from "../../tensor/index.js";
import type { ScoreKeeper, StepBatch } from "../objective.js";
import {
  accuracy,
  matthewsCorrelation,
  meanAbsoluteError,
  meanSquaredError,
  pearson,
  precisionRecallF1,
  spanScores,
  spearman,
} from "../scores/index.js";

const target = (batch: StepBatch, name: string) => batch.feeds[`target/${name}`] as Tensor;

/** Index of the largest number of each row of `width`. */
export function largestOf({ data, shape }: Tensor): number[] {
  const width = shape.at(-1) ?? 1;
  const values = data as Float32Array;
  return Array.from({ length: values.length / width }, (_, row) => {
    let best = 0;
    for (let at = 1; at < width; at++)
      if ((values[row * width + at] as number) > (values[row * width + best] as number)) best = at;
    return best;
  });
}

/** Classes: accuracy, macro F1, Matthews correlation. */
export function classKeeper(output: string): ScoreKeeper {
  const [expected, predicted]: [number[], number[]] = [[], []];
  return {
    add(outputs, batch) {
      predicted.push(...largestOf(outputs[output] as Tensor).slice(0, batch.size));
      expected.push(...Array.from(target(batch, "label").data as BigInt64Array, Number).slice(0, batch.size));
    },
    result: () => ({
      accuracy: accuracy(expected, predicted),
      f1_macro: precisionRecallF1(expected, predicted).macro.f1,
      mcc: matthewsCorrelation(expected, predicted),
    }),
  };
}

/** Several classes at once: shares of right decisions, and micro F1 at probability one half. */
export function multiLabelKeeper(output: string): ScoreKeeper {
  let [right, count, hits, guessed, existing] = [0, 0, 0, 0, 0];
  return {
    add(outputs, batch) {
      const { data, shape } = outputs[output] as Tensor;
      const labels = target(batch, "labels").data as Float32Array;
      for (let at = 0; at < batch.size * (shape.at(-1) as number); at++) {
        const [yes, is] = [(data[at] as number) > 0, labels[at] === 1];
        right += yes === is ? 1 : 0;
        hits += yes && is ? 1 : 0;
        guessed += yes ? 1 : 0;
        existing += is ? 1 : 0;
        count++;
      }
    },
    result: () => ({ accuracy: right / count, f1_micro: (2 * hits) / Math.max(1, guessed + existing) }),
  };
}

/** Labels of tokens: accuracy, and F1 of spans where the names are of a BIO scheme. */
export function tokenKeeper(output: string, names: readonly string[] = []): ScoreKeeper {
  const [expected, predicted]: [string[][], string[][]] = [[], []];
  const nameOf = (label: number) => names[label] ?? String(label);
  return {
    add(outputs, batch) {
      const guesses = largestOf(outputs[output] as Tensor);
      const labels = target(batch, "labels");
      const width = labels.shape[1] as number;
      for (let row = 0; row < batch.size; row++) {
        const own = Array.from(labels.data.slice(row * width, (row + 1) * width), Number);
        const kept = own.flatMap((label, at) => (label >= 0 ? [at] : []));
        expected.push(kept.map((at) => nameOf(own[at] as number)));
        predicted.push(kept.map((at) => nameOf(guesses[row * width + at] as number)));
      }
    },
    result: () => ({
      accuracy: accuracy(expected.flat(), predicted.flat()),
      ...(names.some((name) => /^[BI]-/.test(name)) ? { f1: spanScores(expected, predicted).micro.f1 } : {}),
    }),
  };
}

/** Numbers: mean squared and absolute error; correlations where there is one number an example. */
export function numberKeeper(output: string): ScoreKeeper {
  const [expected, predicted]: [number[], number[]] = [[], []];
  let each = 1;
  return {
    add(outputs, batch) {
      const truth = target(batch, "value");
      each = truth.data.length / (truth.shape[0] as number);
      for (let at = 0; at < batch.size * each; at++) {
        expected.push(Number(truth.data[at]));
        predicted.push(Number(outputs[output]?.data[at]));
      }
    },
    result: () => ({
      mse: meanSquaredError(expected, predicted),
      mae: meanAbsoluteError(expected, predicted),
      ...(each === 1 && new Set(expected).size > 1 && new Set(predicted).size > 1
        ? { pearson: pearson(expected, predicted), spearman: spearman(expected, predicted) }
        : {}),
    }),
  };
}
