import { gradients } from "../src/autodiff/index.js";
import { type Graph, input, makeGraph, ops, type Value } from "../src/graph/index.js";
import { createSession, rng, type Session } from "../src/runtime/index.js";
import { type Tensor, tensor } from "../src/tensor/index.js";
import {
  adam,
  dadaptAdam,
  dadaptDualAveraging,
  dadaptSgd,
  linear,
  type Optimizer,
  type OptimizerState,
  type Params,
  type Schedule,
} from "../src/training/index.js";
import type { Check, Proof } from "./proof.js";

interface Given {
  readonly schedule?: Schedule;
  readonly lr?: number;
  readonly d0?: number;
  readonly growthRate?: number;
}

export interface DAdaptationProofOptions {
  /** The implementations under test. */
  readonly dualAveraging?: (options: Given) => Optimizer;
  readonly adam?: (options: Given) => Optimizer;
  readonly sgd?: (options: Given) => Optimizer;
  /** Steps of the classification check; 0 leaves it out. Default 2000. */
  readonly steps?: number;
}

/**
 * What D-Adaptation must do: on a convex function its estimate never exceeds the distance to the solution and ends near half
 * of it, whatever that distance is; Adam with it solves problems of any scale, and classifies as well as the best of eight
 * learning rates.
 */
export function dAdaptationProof(options: DAdaptationProofOptions = {}): Proof {
  const {
    dualAveraging = dadaptDualAveraging,
    adam: found = dadaptAdam,
    sgd = dadaptSgd,
    steps = 2000,
  } = options;
  return {
    name: "d-adaptation",
    title: "D-Adaptation finds the learning rate whatever the scale of the problem",
    papers: ["2301.07733"],
    async run() {
      const checks: Check[] = [];
      for (const distance of [1e-2, 1, 1e2, 1e4]) checks.push(...convex(dualAveraging, distance));
      checks.push(...leastSquares(found));
      if (steps > 0) checks.push(...(await classification(found, steps)));
      checks.push(...identities(found, sgd));
      return checks;
    },
  };
}

const normals = (label: string, count: number): Float32Array =>
  rng(1, "d-adaptation", label).fillNormal(new Float32Array(count));

const dot = (rows: Float32Array, row: number, cols: number, x: ArrayLike<number>): number => {
  let sum = 0;
  for (let j = 0; j < cols; j++) sum += Number(rows[row * cols + j]) * Number(x[j]);
  return sum;
};

const estimateOf = (optimizer: Optimizer, state: OptimizerState): number =>
  optimizer.report?.(state, 1).d ?? Number.NaN;

/** f(x) = mean |A (x - x*)| with 60 rows and 20 columns, |x*| = distance, from 0 by exact subgradients. */
function convex(make: (options: Given) => Optimizer, distance: number): Check[] {
  const [rows, cols, steps] = [60, 20, 2000];
  const a = normals("a", rows * cols);
  const direction = normals("x*", cols);
  const norm = Math.hypot(...direction);
  const solution = direction.map((value) => (value * distance) / norm);
  const differences = (x: Float32Array) => Float64Array.from(x, (value, j) => value - Number(solution[j]));
  const loss = (x: Float32Array) => {
    const gap = differences(x);
    return (
      Array.from({ length: rows }, (_, i) => Math.abs(dot(a, i, cols, gap))).reduce((s, v) => s + v, 0) / rows
    );
  };
  const x = new Float32Array(cols);
  const params = new Map([["x", x]]);
  const optimizer = make({ d0: 1e-6 });
  const state = optimizer.init(params);
  const first = loss(x);
  let largest = 0;
  for (let step = 1; step <= steps; step++) {
    const gap = differences(x);
    const gradient = new Float64Array(cols);
    for (let i = 0; i < rows; i++) {
      const sign = Math.sign(dot(a, i, cols, gap)) / rows;
      for (let j = 0; j < cols; j++) gradient[j] = Number(gradient[j]) + sign * Number(a[i * cols + j]);
    }
    optimizer.step(params, new Map([["x", Float32Array.from(gradient)]]), state, { step });
    largest = Math.max(largest, estimateOf(optimizer, state) / distance);
  }
  optimizer.enterEvaluation?.(params, state);
  const at = `distance ${distance}`;
  return [
    {
      what: `largest d / D of all steps, at most 1, ${at}`,
      measured: largest,
      expected: 0.5,
      tolerance: 0.5,
    },
    {
      what: `d / D after ${steps} steps, ${at}`,
      measured: estimateOf(optimizer, state) / distance,
      expected: 0.485,
      tolerance: 0.05,
    },
    { what: `f(average) / f(start), ${at}`, measured: loss(x) / first, expected: 0.02, tolerance: 0.02 },
  ];
}

interface Solved {
  /** Loss at the end over loss at the start. */
  readonly ratio: number;
  readonly d: number;
}

/** Least squares without noise, 512 x 20, batches of 32, linear decay over 3000 steps. */
function solve(optimizer: Optimizer, scale: number): Solved {
  const [rows, cols, batch, steps] = [512, 20, 32, 3000];
  const a = normals("rows", rows * cols);
  const solution = normals("solution", cols).map((value) => value * scale);
  const x = new Float32Array(cols);
  const params = new Map([["x", x]]);
  const state = optimizer.init(params);
  const loss = () => {
    const gap = Float64Array.from(x, (value, j) => value - Number(solution[j]));
    return Array.from({ length: rows }, (_, i) => dot(a, i, cols, gap) ** 2).reduce((s, v) => s + v, 0);
  };
  const first = loss();
  const random = rng(1, "d-adaptation", "batches");
  for (let step = 1; step <= steps; step++) {
    const gap = Float64Array.from(x, (value, j) => value - Number(solution[j]));
    const gradient = new Float64Array(cols);
    for (const draw of random.fillUniform(new Float32Array(batch))) {
      const row = Math.min(rows - 1, Math.floor(draw * rows));
      const residual = dot(a, row, cols, gap) / batch;
      for (let j = 0; j < cols; j++) gradient[j] = Number(gradient[j]) + residual * Number(a[row * cols + j]);
    }
    optimizer.step(params, new Map([["x", Float32Array.from(gradient)]]), state, { step });
  }
  return { ratio: loss() / first, d: estimateOf(optimizer, state) };
}

function leastSquares(make: (options: Given) => Optimizer): Check[] {
  const schedule = linear({ totalSteps: 3000 });
  const checks: Check[] = [];
  const found = [0.01, 1, 100].map((scale) => ({ scale, ...solve(make({ schedule }), scale) }));
  for (const { scale, ratio } of found) {
    checks.push({
      what: `least squares, x* of scale ${scale}: loss over first loss`,
      measured: ratio,
      expected: 0,
      // float32 resolves weights to 6e-8 of their size.
      tolerance: 1e-12,
    });
  }
  for (const { scale, d } of found.slice(1)) {
    checks.push({
      what: `least squares: d at scale ${scale} over d at scale 0.01`,
      measured: d / Number(found[0]?.d),
      expected: scale / 0.01,
      tolerance: 0.5,
      relative: true,
    });
  }
  const { ratio } = solve(adam({ lr: 1e-3, schedule }), 100);
  const what = "least squares, x* of scale 100: what Adam at 1e-3 leaves";
  return [...checks, { what, measured: ratio, expected: 0.98, tolerance: 0.02 }];
}

const [FEATURES, HIDDEN, CLASSES, BATCH] = [16, 64, 4, 64];
const MLP: Readonly<Record<string, readonly number[]>> = {
  w1: [FEATURES, HIDDEN],
  b1: [HIDDEN],
  w2: [HIDDEN, CLASSES],
  b2: [CLASSES],
};

/** Logits, mean cross-entropy and gradients of an MLP with one hidden layer. */
function mlpGraph(): Graph {
  const x = input("x", "float32", ["rows", FEATURES]);
  const labels = input("labels", "float32", ["rows", CLASSES]);
  const weights = Object.entries(MLP).map(([name, shape]) => input(name, "float32", shape));
  const [w1, b1, w2, b2] = weights as [Value, Value, Value, Value];
  const logits = ops.add(ops.matmul(ops.relu(ops.add(ops.matmul(x, w1), b1)), w2), b2);
  const likelihood = ops.reduceSum(ops.mul(ops.logSoftmax(logits), labels), [-1], false);
  const loss = ops.neg(ops.reduceMean(likelihood, undefined, false));
  const grads = gradients(loss, weights);
  const outputs: [string, Value][] = [["logits", logits]];
  for (const [at, name] of Object.keys(MLP).entries()) outputs.push([`grad/${name}`, grads[at] as Value]);
  return makeGraph("mlp", [x, labels, ...weights], outputs);
}

interface Examples {
  readonly x: Float32Array;
  readonly classes: readonly number[];
}

/** Points whose class a random network with tanh decides. */
function examples(label: string, count: number): Examples {
  const x = normals(label, count * FEATURES);
  const [inner, outer] = [normals("teacher 1", 12 * FEATURES), normals("teacher 2", CLASSES * 12)];
  const classes = Array.from({ length: count }, (_, row) => {
    const point = x.subarray(row * FEATURES, (row + 1) * FEATURES);
    const hidden = Array.from({ length: 12 }, (_, i) => Math.tanh(0.5 * dot(inner, i, FEATURES, point)));
    const scores = Array.from({ length: CLASSES }, (_, c) => dot(outer, c, 12, hidden));
    return scores.indexOf(Math.max(...scores));
  });
  return { x, classes };
}

const oneHot = (classes: readonly number[]): Float32Array =>
  Float32Array.from({ length: classes.length * CLASSES }, (_, at) =>
    classes[Math.floor(at / CLASSES)] === at % CLASSES ? 1 : 0,
  );

function feedsOf(params: Params, x: Float32Array, classes: readonly number[]): Record<string, Tensor> {
  const feeds: Record<string, Tensor> = {
    x: tensor("float32", [classes.length, FEATURES], x),
    labels: tensor("float32", [classes.length, CLASSES], oneHot(classes)),
  };
  for (const [name, data] of params) feeds[name] = tensor("float32", MLP[name] as readonly number[], data);
  return feeds;
}

/** Accuracy on 2000 fresh points after training. */
async function accuracy(
  session: Session,
  optimizer: Optimizer,
  train: Examples,
  test: Examples,
  steps: number,
): Promise<number> {
  const params = new Map(
    Object.entries(MLP).map(([name, shape]) => {
      const size = shape.reduce((a, b) => a * b, 1);
      const scale = shape.length > 1 ? 1 / Math.sqrt(Number(shape[0])) : 0;
      return [name, normals(name, size).map((value) => value * scale)] as const;
    }),
  );
  const state = optimizer.init(params);
  const random = rng(1, "d-adaptation", "order");
  const fetches = Object.keys(MLP).map((name) => `grad/${name}`);
  for (let step = 1; step <= steps; step++) {
    const draws = random.fillUniform(new Float32Array(BATCH));
    const rows = Array.from(draws, (draw) =>
      Math.min(train.classes.length - 1, Math.floor(draw * train.classes.length)),
    );
    const x = new Float32Array(BATCH * FEATURES);
    for (const [at, row] of rows.entries())
      x.set(train.x.subarray(row * FEATURES, (row + 1) * FEATURES), at * FEATURES);
    const classes = rows.map((row) => Number(train.classes[row]));
    const results = await session.run(feedsOf(params, x, classes), fetches);
    const grads = new Map(
      Object.keys(MLP).map((name) => [name, results[`grad/${name}`]?.data as Float32Array] as const),
    );
    optimizer.step(params, grads, state, { step });
  }
  const { logits } = await session.run(feedsOf(params, test.x, test.classes), ["logits"]);
  const scores = logits?.data as Float32Array;
  const right = test.classes.filter((wanted, row) => {
    const own = [...scores.subarray(row * CLASSES, (row + 1) * CLASSES)];
    return own.indexOf(Math.max(...own)) === wanted;
  });
  return right.length / test.classes.length;
}

/** Against Adam with eight learning rates from 1e-5 to 0.3; the data are so many that accuracy measures optimisation. */
async function classification(make: (options: Given) => Optimizer, steps: number): Promise<Check[]> {
  const schedule = linear({ totalSteps: steps });
  const [train, test] = [examples("train", 32768), examples("test", 2000)];
  const session = await createSession(mlpGraph(), { threads: 1 });
  try {
    const grid: number[] = [];
    for (const lr of [1e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 1e-1, 3e-1])
      grid.push(await accuracy(session, adam({ lr, schedule }), train, test, steps));
    const own = await accuracy(session, make({ schedule }), train, test, steps);
    grid.sort((a, b) => a - b);
    const best = Number(grid.at(-1));
    const median = (Number(grid[3]) + Number(grid[4])) / 2;
    return [
      {
        what: `accuracy below the best of eight Adam rates (${best.toFixed(3)})`,
        measured: Math.max(0, best - own),
        expected: 0,
        tolerance: 0.01,
      },
      {
        what: `accuracy above the grid's median (${median.toFixed(3)}), 1 if so`,
        measured: own > median ? 1 : 0,
        expected: 1,
        tolerance: 0,
      },
    ];
  } finally {
    await session.release();
  }
}

/** Runs on a quadratic with noise; gives the weights after each update and the estimates. */
function trajectory(optimizer: Optimizer, names: readonly string[], steps: number) {
  const params = new Map(names.map((name) => [name, normals(`start ${name}`, 7)] as const));
  const state = optimizer.init(params);
  const estimates: number[] = [];
  const grads: Params[] = [];
  for (let step = 1; step <= steps; step++) {
    const gradient = new Map(
      [...params].map(([name, data]) => {
        const noise = normals(`noise ${name} ${step}`, data.length);
        return [name, data.map((value, i) => value + 0.1 * Number(noise[i]))] as const;
      }),
    );
    grads.push(new Map([...gradient].map(([name, data]) => [name, data.slice()])));
    optimizer.step(params, gradient, state, { step });
    estimates.push(estimateOf(optimizer, state));
  }
  return { params, estimates, grads };
}

const NAMES = ["a", "b", "c"];

const gap = (x: Params, y: Params): number =>
  Math.max(
    ...[...x].flatMap(([name, data]) =>
      [...data].map((value, i) => Math.abs(value - Number(y.get(name)?.[i]))),
    ),
  );

function identities(make: (options: Given) => Optimizer, sgd: (options: Given) => Optimizer): Check[] {
  const checks: Check[] = [];
  for (const [name, factory] of Object.entries({ Adam: make, SGD: sgd })) {
    const { estimates, params } = trajectory(factory({ d0: 1e-3 }), NAMES, 40);
    const falls = estimates.filter((d, at) => at > 0 && d < Number(estimates[at - 1])).length;
    checks.push({ what: `${name}: times that d falls`, measured: falls, expected: 0, tolerance: 0 });
    const shuffled = trajectory(factory({ d0: 1e-3 }), [...NAMES].reverse(), 40);
    const difference = gap(params, shuffled.params);
    checks.push({
      what: `${name}: change by the order of parameters`,
      measured: difference,
      expected: 0,
      tolerance: 1e-5,
    });
    checks.push(firstStep(name, factory));
  }
  return [...checks, ...constantRate(sgd)];
}

/** A doubled learning rate doubles the first step. */
function firstStep(name: string, make: (options: Given) => Optimizer): Check {
  const start = new Map(NAMES.map((key) => [key, normals(`start ${key}`, 7)] as const));
  const moved = (lr: number) => gap(start, trajectory(make({ lr, d0: 0.1 }), NAMES, 1).params);
  const measured = moved(2) / moved(1);
  return { what: `${name}: first step at twice the rate`, measured, expected: 2, tolerance: 1e-5 };
}

/** With growth 1, d stays d0 and SGD is x0 - (d0 / |g0|) of the sum of gradients. */
function constantRate(sgd: (options: Given) => Optimizer): Check[] {
  const d0 = 0.05;
  const { params, estimates, grads } = trajectory(sgd({ d0, growthRate: 1 }), NAMES, 20);
  const first = Math.hypot(...[...(grads[0]?.values() ?? [])].flatMap((data) => [...data]));
  const expected = new Map(
    NAMES.map((name) => {
      const start = normals(`start ${name}`, 7);
      const sum = (i: number) => grads.reduce((total, grad) => total + Number(grad.get(name)?.[i]), 0);
      return [name, start.map((value, i) => value - (d0 / first) * sum(i))] as const;
    }),
  );
  return [
    {
      what: "SGD, growth 1: d after 20 steps",
      measured: Number(estimates.at(-1)),
      expected: d0,
      tolerance: 0,
    },
    {
      what: "SGD, growth 1: weights against x0 - d0 / |g0| of all gradients",
      measured: gap(params, expected),
      expected: 0,
      tolerance: 1e-6,
    },
  ];
}
