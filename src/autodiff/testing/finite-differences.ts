import { TunesmithError } from "../../errors/index.js";
import { type Graph, input, makeGraph, ops, type Shape, type Value } from "../../graph/index.js";
import { type Dtype, type Tensor, tensor } from "../../tensor/index.js";
import { gradients } from "../gradients.js";
import { inDouble } from "./double-kernels.js";

/** One operand of a checked expression. */
export interface Operand {
  readonly shape: readonly number[];
  /** Elements; default: random in `range`, whole numbers in f32 cases that are polynomial of low degree. */
  readonly values?: readonly number[];
  /** Default [-1.5, 1.5]. */
  readonly range?: readonly [number, number];
  /** Default: the case's float dtype. Other dtypes are not differentiated. */
  readonly dtype?: Dtype;
  /** Whether to take the gradient (default: all floats). */
  readonly differentiate?: boolean;
  /** The shape the graph is built with, where it differs from the fed one: symbolic names. */
  readonly symbolic?: Shape;
}

export interface GradientCase {
  readonly operands: readonly Operand[];
  readonly build: (...values: Value[]) => Value | readonly Value[];
  /**
   * `float64` (default): central differences with a small step, relative tolerance 1e-6. `exact32`: for functions at
   * most quadratic in every direction, where ONNX Runtime has no double kernel: whole numbers and a step of 1 make
   * the differences exact up to rounding. `float32`: a step of 1e-2 and a loose tolerance.
   */
  readonly precision?: "float64" | "exact32" | "float32";
  readonly tolerance?: number;
  /** Operators replaced by their decomposition before running (they have no double kernel). Default: none. */
  readonly lower?: readonly string[];
  /** Also check the derivative of ⟨gradient, v⟩. Default true. */
  readonly second?: boolean;
}

/** What the check needs of a runtime: `createSession` of the runtime floor. */
export type Compile = (graph: Graph) => Promise<{
  run(feeds: Readonly<Record<string, Tensor>>, fetches?: readonly string[]): Promise<Record<string, Tensor>>;
  release(): Promise<void>;
}>;

export interface GradientReport {
  /** Largest difference relative to the largest gradient element. */
  readonly first: number;
  readonly second: number;
  /** Gradients by operand, in the order of the operands that were differentiated. */
  readonly gradients: readonly Tensor[];
}

const SETTINGS = {
  float64: { dtype: "float64", step: 1e-5, tolerance: 1e-6 },
  exact32: { dtype: "float32", step: 1, tolerance: 1e-5 },
  float32: { dtype: "float32", step: 1e-2, tolerance: 5e-3 },
} as const;
const MAX_PERTURBED = 64;

/**
 * Compares `gradients` with central finite differences of Σ output·weights (random fixed weights) for every element
 * of every float operand (a random subset of large ones), then the gradient of ⟨gradients, v⟩ with differences of
 * ⟨gradients, v⟩. Throws `numerical-failure` with the worst element when they disagree.
 */
export async function checkGradients(compile: Compile, options: GradientCase): Promise<GradientReport> {
  const setting = SETTINGS[options.precision ?? "float64"];
  const whole = options.precision === "exact32";
  const random = generator(7);
  const draw = (shape: readonly number[], range: readonly [number, number]) =>
    drawValues(random, shape, range, whole);
  const feeds: Record<string, Tensor> = {};
  const feed = (name: string, data: Tensor, shape: Shape): Value => {
    feeds[name] = data;
    return input(name, data.dtype, shape);
  };
  const dtypeOf = (operand: Operand) => operand.dtype ?? setting.dtype;
  const values = options.operands.map((operand, at) => {
    const elements = operand.values ?? draw(operand.shape, operand.range ?? (whole ? [-4, 4] : [-1.5, 1.5]));
    return feed(
      `x${at}`,
      tensor(dtypeOf(operand), operand.shape, elements),
      operand.symbolic ?? operand.shape,
    );
  });
  const wanted = options.operands.flatMap((operand, at) =>
    (operand.differentiate ?? dtypeOf(operand) === setting.dtype) ? [at] : [],
  );
  const wrt = wanted.map((at) => values[at] as Value);
  const outputs = [options.build(...values)].flat() as Value[];
  const graph = (name: string, inputs: readonly Value[], prefix: string, results: readonly Value[]) =>
    inDouble(makeGraph(name, inputs, named(results, prefix)), options.lower ?? []);

  const shapes = await concreteShapes(compile, graph("forward", values, "y", outputs), outputs, feeds);
  const weights = outputs.map((y, at) =>
    feed(`w${at}`, tensor(y.dtype, shapes[at] ?? [], draw(shapes[at] ?? [], [-2, 2])), y.shape),
  );
  const loss = dot(outputs, weights);
  const first = gradients(loss, wrt);
  const probes = wrt.map((x, at) => {
    const { shape } = options.operands[wanted[at] as number] as Operand;
    return feed(`v${at}`, tensor(setting.dtype, shape, draw(shape, [-2, 2])), x.shape);
  });
  const along = dot(first, probes);
  const second = options.second === false ? [] : gradients(along, wrt);
  const inputs = [...values, ...weights, ...probes];
  const scalars = await compile(graph("scalars", inputs, "s", [loss, along]));
  const exact = await compile(graph("gradients", inputs, "g", [...first, ...second]));
  const analytic = await exact.run(feeds);
  const errors = { first: 0, second: 0 };
  const tolerance = options.tolerance ?? setting.tolerance;
  for (const [place, at] of wanted.entries()) {
    const name = `x${at}`;
    const data = feeds[name] as Tensor;
    for (const element of someOf(data.data.length, random)) {
      const up = await scalars.run({ ...feeds, [name]: shifted(data, element, setting.step) });
      const down = await scalars.run({ ...feeds, [name]: shifted(data, element, -setting.step) });
      for (const [order, scalar, result] of [
        ["first", "s0", analytic[`g${place}`]],
        ["second", "s1", analytic[`g${place + wrt.length}`]],
      ] as const) {
        if (order === "second" && second.length === 0) continue;
        const expected = (numberAt(up[scalar], 0) - numberAt(down[scalar], 0)) / (2 * setting.step);
        const got = numberAt(result, element);
        const error = Math.abs(got - expected) / Math.max(1, largest(result), Math.abs(expected));
        errors[order] = Math.max(errors[order], error);
        if (!(error <= tolerance)) throw disagree(order, at, element, got, expected);
      }
    }
  }
  await scalars.release();
  await exact.release();
  return { ...errors, gradients: first.map((_, at) => analytic[`g${at}`] as Tensor) };
}

function disagree(
  order: string,
  operand: number,
  element: number,
  got: number,
  expected: number,
): TunesmithError {
  return new TunesmithError(
    "numerical-failure",
    `${order} derivative for operand ${operand}, element ${element}: ${got}, but finite differences give ${expected}`,
    { details: { order, operand, element, got, expected } },
  );
}

/** Runs the forward graph to learn its outputs' lengths, and holds them against what was inferred. */
async function concreteShapes(
  compile: Compile,
  graph: Graph,
  outputs: readonly Value[],
  feeds: Readonly<Record<string, Tensor>>,
): Promise<(readonly number[])[]> {
  const session = await compile(graph);
  const results = await session.run(feeds);
  await session.release();
  return outputs.map((value, at) => {
    const { shape } = results[`y${at}`] as Tensor;
    const fits =
      value.shape.length === shape.length &&
      value.shape.every((dim, axis) => typeof dim === "string" || dim === shape[axis]);
    if (fits) return shape;
    throw new TunesmithError(
      "shape-mismatch",
      `output ${at} was inferred as [${value.shape}], but is [${shape}]`,
    );
  });
}

const named = (list: readonly Value[], prefix: string) =>
  list.map((value, at): [string, Value] => [`${prefix}${at}`, value]);

/** Σ ⟨a, b⟩ over pairs, a scalar. */
const dot = (as: readonly Value[], bs: readonly Value[]): Value =>
  as
    .map((a, at) => ops.reduceSum(ops.mul(a, bs[at] as Value), undefined, false))
    .reduce((sum, term) => ops.add(sum, term));

/** Random elements of a shape; whole numbers on request. */
export const drawValues = (
  random: () => number,
  shape: readonly number[],
  [low, high]: readonly [number, number],
  whole: boolean,
): number[] =>
  Array.from({ length: size(shape) }, () => {
    const value = low + random() * (high - low);
    return whole ? Math.round(value) : value;
  });

const size = (shape: readonly number[]) => shape.reduce((a, b) => a * b, 1);
const numberAt = (values: Tensor | undefined, at: number): number => Number(values?.data[at] ?? Number.NaN);
const largest = (values: Tensor | undefined): number =>
  Array.from((values?.data ?? []) as ArrayLike<number>, Math.abs).reduce((a, b) => Math.max(a, b), 0);

function shifted(feed: Tensor, element: number, by: number): Tensor {
  const data = (feed.data as Float64Array).slice();
  data[element] = (data[element] ?? 0) + by;
  return { ...feed, data };
}

function someOf(count: number, random: () => number): number[] {
  if (count <= MAX_PERTURBED) return [...Array(count).keys()];
  return Array.from({ length: MAX_PERTURBED }, () => Math.floor(random() * count));
}

/** Mulberry32: fixed numbers, so that a failing case fails again. */
export function generator(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}
