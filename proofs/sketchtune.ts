import { ops, type Value } from "../src/graph/index.js";
import {
  buildSketch,
  lora,
  type Method,
  readSketch,
  type SketchTuneConfig,
  sketchTune,
  sketchTuneMethod,
} from "../src/methods/index.js";
import { runModel, type TensorModel } from "../src/models/index.js";
import { tensor } from "../src/tensor/index.js";
import type { ExampleSource, TensorLoss } from "../src/training/index.js";
import { adapted, atLeast, liveTensor, network, normals, numbersOf } from "./network.js";
import type { Check, Proof } from "./proof.js";

export interface SketchTuneProofOptions {
  /** The implementations under test. */
  readonly method?: Method<SketchTuneConfig>;
  readonly build?: typeof buildSketch;
  /** Steps of the learning check; 0 leaves it out. Default 1000. */
  readonly steps?: number;
}

const [ROWS, COLUMNS, SAMPLES] = [32, 64, 600];

/**
 * What SketchTune must do: sketches keep a map's outputs better than rounding in few bits, the better the more books and
 * bits; and tuned books learn shifts of books that a low-rank update of as many numbers cannot.
 */
export function sketchTuneProof(options: SketchTuneProofOptions = {}): Proof {
  const { method = sketchTuneMethod, build = buildSketch, steps = 1000 } = options;
  return {
    name: "sketchtune",
    title: "books of numbers keep a map's outputs, and learn updates of full rank",
    papers: ["2410.06364"],
    async run() {
      const checks = construction(build);
      return steps > 0 ? [...checks, ...(await shiftedBooks(method, steps))] : checks;
    },
  };
}

/** Student-t weights with 4 degrees of freedom, and correlated inputs. */
function heavyMap(seed: number) {
  const parts = [0, 1, 2, 3].map((k) => normals(ROWS * COLUMNS, 1, "chi", k, seed));
  const weight = normals(ROWS * COLUMNS, 1, "weight", seed).map((value, at) => {
    const chi = parts.reduce((sum, part) => sum + Number(part[at]) ** 2, 0);
    return value / Math.sqrt(chi / 4);
  });
  const mixing = normals(COLUMNS * COLUMNS, 1 / Math.sqrt(COLUMNS), "mixing", seed);
  const raw = normals(SAMPLES * COLUMNS, 1, "raw", seed);
  const x = new Float32Array(SAMPLES * COLUMNS);
  for (let row = 0; row < SAMPLES; row++)
    for (let i = 0; i < COLUMNS; i++)
      for (let j = 0; j < COLUMNS; j++)
        x[row * COLUMNS + i] =
          Number(x[row * COLUMNS + i]) + Number(mixing[i * COLUMNS + j]) * Number(raw[row * COLUMNS + j]);
  const covariance = new Float32Array(COLUMNS * COLUMNS);
  for (let i = 0; i < COLUMNS; i++)
    for (let j = 0; j < COLUMNS; j++)
      for (let row = 0; row < SAMPLES; row++)
        covariance[i * COLUMNS + j] =
          Number(covariance[i * COLUMNS + j]) +
          (Number(x[row * COLUMNS + i]) * Number(x[row * COLUMNS + j])) / SAMPLES;
  return { weight, covariance };
}

/** ‖X(W − Ŵ)ᵀ‖ / ‖XWᵀ‖ by the covariance. */
function outputError(weight: Float32Array, other: Float32Array, covariance: Float32Array): number {
  const size = (data: (at: number) => number) => {
    let sum = 0;
    for (let row = 0; row < ROWS; row++)
      for (let i = 0; i < COLUMNS; i++)
        for (let j = 0; j < COLUMNS; j++)
          sum += data(row * COLUMNS + i) * data(row * COLUMNS + j) * Number(covariance[i * COLUMNS + j]);
    return Math.sqrt(sum);
  };
  return size((at) => Number(weight[at]) - Number(other[at])) / size((at) => Number(weight[at]));
}

/** Each row rounded to 2^bits numbers between its least and its largest. */
function rounded(weight: Float32Array, bits: number): Float32Array {
  return weight.map((value, at) => {
    const row = weight.subarray(at - (at % COLUMNS), at - (at % COLUMNS) + COLUMNS);
    const [low, high] = [Math.min(...row), Math.max(...row)];
    const step = (high - low) / (2 ** bits - 1);
    return low + Math.round((value - low) / step) * step;
  });
}

/** Errors are means over four maps: k-means finds better and worse books by chance. */
function construction(build: typeof buildSketch): Check[] {
  const maps = [1, 2, 3, 4].map(heavyMap);
  const mean = (measure: (map: (typeof maps)[number]) => number) =>
    maps.reduce((sum, map) => sum + measure(map), 0) / maps.length;
  const error = (bits: number, groups: number) =>
    mean(({ weight, covariance }) => {
      const layout = { rows: ROWS, columns: COLUMNS, bits, groups };
      const sketch = build(weight, { ...layout, covariance, exponent: 0, damping: 0.01 });
      return outputError(weight, readSketch(sketch, layout), covariance);
    });
  const checks: Check[] = [];
  for (const bits of [2, 3]) {
    const plain = mean(({ weight, covariance }) => outputError(weight, rounded(weight, bits), covariance));
    const errors = [1, 2, 4].map((groups) => error(bits, groups));
    const falls = errors.slice(1).map((value, at) => Number(errors[at]) - value);
    const listed = errors.map((each) => each.toFixed(3)).join(", ");
    checks.push({
      what: `largest error of sketches over rounding's (${plain.toFixed(3)}), ${bits} bits`,
      measured: Math.max(...errors) / plain,
      expected: 0.5,
      tolerance: 0.5,
    });
    checks.push(
      atLeast(`least gain of twice as many books (${listed}), ${bits} bits`, Math.min(...falls), 1e-3),
    );
  }
  checks.push(atLeast("gain of 3 bits over 2", error(2, 2) - error(3, 2), 0.02));
  const layout = { rows: ROWS, columns: COLUMNS, bits: 3, groups: 1 };
  const nearest = mean(({ weight, covariance }) => {
    const sketch = buildSketch(weight, { ...layout, exponent: 0, damping: 0.01 });
    return outputError(weight, readSketch(sketch, layout), covariance);
  });
  checks.push({
    what: "error of codes that know the inputs over that of the nearest, 3 bits",
    measured: error(3, 1) / nearest,
    expected: 0.45,
    tolerance: 0.45,
  });
  return checks;
}

const squares: TensorLoss = {
  name: "squares",
  targets: [{ name: "y", dtype: "float32", shape: ["batch", ROWS] }],
  sum({ outputs, targets, rowWeights }) {
    const errors = ops.square(ops.sub(outputs.logits as Value, targets.y as Value));
    return ops.reduceSum(ops.mul(ops.reduceMean(errors, [1], false), rowWeights), undefined, false);
  },
};

const LAYOUT = { rows: ROWS, columns: COLUMNS, bits: 3, groups: 2 };

/** A teacher whose books are others: by books of 3 bits in 2 groups, 512 numbers, and by LoRA of rank 5, 480. */
async function shiftedBooks(method: Method<SketchTuneConfig>, steps: number): Promise<Check[]> {
  const base = network([COLUMNS, ROWS], { seed: "sketch" });
  const [weight, bias] = [await numbersOf(base, "fc1.weight"), await numbersOf(base, "fc1.bias")];
  const sketch = buildSketch(weight, { ...LAYOUT, exponent: 0, damping: 0.01 });
  const shift = normals(sketch.books.length, 0.1, "shift");
  const moved = readSketch({ codes: sketch.codes, books: shift }, LAYOUT);
  const teacher = weight.map((value, at) => value + Number(moved[at]));
  const x = normals(3000 * COLUMNS, 1, "sketch x");
  const y = new Float32Array(3000 * ROWS);
  for (let row = 0; row < 3000; row++)
    for (let i = 0; i < ROWS; i++) {
      let sum = Number(bias[i]);
      for (let j = 0; j < COLUMNS; j++)
        sum += Number(teacher[i * COLUMNS + j]) * Number(x[row * COLUMNS + j]);
      y[row * ROWS + i] = sum;
    }
  const train: ExampleSource = {
    size: 2500,
    hash: "sketch",
    at: (index) => ({
      inputs: { x: tensor("float32", [COLUMNS], x.subarray(index * COLUMNS, (index + 1) * COLUMNS)) },
      targets: { y: tensor("float32", [ROWS], y.subarray(index * ROWS, (index + 1) * ROWS)) },
    }),
  };
  const errorOf = async (model: TensorModel) => {
    const { logits } = await runModel(model, {
      x: tensor("float32", [500, COLUMNS], x.subarray(2500 * COLUMNS)),
    });
    const found = logits?.data as Float32Array;
    return (
      found.reduce((sum, value, at) => sum + (value - Number(y[2500 * ROWS + at])) ** 2, 0) / found.length
    );
  };
  const settings = { steps, lr: 5e-3, loss: squares };
  const { config } = sketchTune({ bits: 3, groupsPerRow: 2 });
  const own = await adapted(base, { method, config }, train, settings);
  const lowRank = await adapted(base, lora({ rank: 5, alpha: 10 }), train, settings);
  const start = await errorOf(base);
  const codes = liveTensor(own, "fc1", "sketch_codes").data as Int32Array;
  return [
    {
      what: "books: error over that of the base",
      measured: (await errorOf(own)) / start,
      expected: 0,
      tolerance: 0.02,
    },
    atLeast("LoRA of rank 5: error over that of the base", (await errorOf(lowRank)) / start, 0.1),
    {
      what: "codes that changed",
      measured: codes.filter((code, at) => code !== sketch.codes[at]).length,
      expected: 0,
      tolerance: 0,
    },
  ];
}
