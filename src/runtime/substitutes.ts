/** Operators in terms of others that every backend has; see dialect.ts. */
import { TunesmithError } from "../errors/index.js";
import { decompositions } from "../graph/decompose/index.js";
import {
  constant,
  describe,
  makeNode,
  type Node,
  normalAxis,
  numbersOf,
  op,
  ops,
  staticShape,
  type Value,
} from "../graph/index.js";
import { windowOf } from "../graph/window.js";
import { elementCount, tensor } from "../tensor/index.js";
import { cosine, sine } from "./sine.js";

/** Replacement outputs, or undefined to keep the operator as it is. */
export type Substitute = (inputs: readonly Value[], node: Node) => readonly (Value | undefined)[] | undefined;

const int = (node: Node, name: string, fallback: number): number => {
  const attr = node.attrs[name];
  return attr && "i" in attr ? Number(attr.i) : fallback;
};
const float = (node: Node, name: string, fallback: number): number => {
  const attr = node.attrs[name];
  return attr && "f" in attr ? attr.f : fallback;
};

const first = (inputs: readonly Value[]): Value => inputs[0] as Value;
const axisOf = (node: Node, x: Value, fallback: number): number =>
  normalAxis(int(node, "axis", fallback), x.shape.length, node.op);
const onGpu = (x: Value): boolean => x.dtype === "float32" || x.dtype === "float16" || x.dtype === "int32";
const floor = (x: Value): Value => op("Floor", [x]);

/** For one operand of a dtype that WebGPU computes with; others run on the CPU either way. */
const unary =
  (write: (x: Value, node: Node) => Value): Substitute =>
  (inputs, node) =>
    onGpu(first(inputs)) ? [write(first(inputs), node)] : undefined;

const logSoftmax = unary((x, node) => {
  const axes = [axisOf(node, x, -1)];
  const shifted = ops.sub(x, ops.reduceMax(x, axes));
  return ops.sub(shifted, ops.log(ops.reduceSum(ops.exp(shifted), axes)));
});

/** Where the kernel is not accurate to float32, float16 is served well enough. */
const inFloat32 =
  (write: (x: Value) => Value): Substitute =>
  (inputs) =>
    first(inputs).dtype === "float32" ? [write(first(inputs))] : undefined;

const sign = unary((x) => ops.sub(ops.cast(ops.greater(x, 0), x.dtype), ops.cast(ops.less(x, 0), x.dtype)));

/** Half to even. */
const round = unary((x) => {
  const low = floor(x);
  const rest = ops.sub(x, low);
  const odd = ops.sub(low, ops.mul(floor(ops.mul(low, 0.5)), 2));
  const half = ops.where(ops.greater(rest, 0.5), 1, odd);
  return ops.add(low, ops.where(ops.less(rest, 0.5), 0, ops.cast(half, x.dtype)));
});

const selu = unary((x, node) => {
  const alpha = float(node, "alpha", 1.6732632423543772);
  const gamma = float(node, "gamma", 1.0507009873554805);
  return ops.mul(ops.where(ops.greater(x, 0), x, ops.mul(ops.sub(ops.exp(ops.min(x, 0)), 1), alpha)), gamma);
});

const celu = unary((x, node) => {
  const alpha = float(node, "alpha", 1);
  const below = ops.mul(ops.sub(ops.exp(ops.div(ops.min(x, 0), alpha)), 1), alpha);
  return ops.add(ops.max(x, 0), below);
});

/** 1 at the first largest element of the axis, 0 elsewhere. */
const hardmax: Substitute = (inputs, node) => {
  const x = first(inputs);
  const axis = axisOf(node, x, -1);
  const length = x.shape[axis];
  if (typeof length !== "number") return undefined;
  const positions = ops.reshape(ops.arange(length, "int32"), alongAxis(x.shape.length, axis, length));
  return [ops.cast(ops.equal(ops.cast(ops.argMax(x, axis), "int32"), positions), x.dtype)];
};

const alongAxis = (rank: number, axis: number, length: number): number[] =>
  Array.from({ length: rank }, (_, at) => (at === axis ? length : 1));

/** fmod=0: the sign of the divisor (integers); fmod=1: the sign of the dividend. */
const mod: Substitute = (inputs, node) => {
  const [a, b] = inputs as [Value, Value];
  if (!onGpu(a)) return undefined;
  if (int(node, "fmod", 0) === 0) {
    const rest = ops.sub(a, ops.mul(ops.div(a, b), b));
    const differs = ops.less(ops.mul(rest, b), 0);
    return [ops.where(differs, ops.add(rest, b), rest)];
  }
  if (a.dtype === "int32") return [ops.sub(a, ops.mul(ops.div(a, b), b))];
  const [x, y] = [ops.abs(a), ops.abs(b)];
  // The rounded quotient may be one off at multiples of the divisor.
  const guess = ops.sub(x, ops.mul(floor(ops.div(x, y)), y));
  const above = ops.where(ops.less(guess, 0), ops.add(guess, y), guess);
  const rest = ops.where(ops.greaterOrEqual(above, y), ops.sub(above, y), above);
  return [ops.where(ops.less(a, 0), ops.neg(rest), rest)];
};

const sum: Substitute = (inputs) => [inputs.reduce((total, value) => ops.add(total, value))];
const mean: Substitute = (inputs) => [
  ops.div(
    inputs.reduce((total, value) => ops.add(total, value)),
    inputs.length,
  ),
];

const constantOfShape: Substitute = (inputs, node) => {
  const attr = node.attrs.value;
  const one = attr && "t" in attr ? attr.t : tensor("float32", [1], [0]);
  const fill = ops.reshape(constant(one), []);
  return [op("Expand", [fill, first(inputs)])];
};

const oneHot: Substitute = (inputs, node) => {
  const [indices, depthInput, values] = inputs as [Value, Value, Value];
  const [depth] = numbersOf(depthInput) ?? [];
  if (depth === undefined) return undefined;
  const rank = indices.shape.length + 1;
  const axis = normalAxis(int(node, "axis", -1), rank, "OneHot");
  const raw = ops.cast(indices, "int32");
  const index = ops.where(ops.less(raw, 0), ops.add(raw, depth), raw);
  const positions = ops.reshape(ops.arange(depth, "int32"), alongAxis(rank, axis, depth));
  const hit = ops.equal(ops.unsqueeze(index, axis), positions);
  const value = (at: number) => ops.reshape(ops.slice(values, 0, at, at + 1), []);
  return [ops.where(hit, value(1), value(0))];
};

/** Known integer ranges become constants. */
const range: Substitute = (inputs) => {
  const [start, limit, delta] = inputs.map((value) => numbersOf(value)?.[0]);
  const dtype = first(inputs).dtype;
  if (start === undefined || limit === undefined || !delta || (dtype !== "int64" && dtype !== "int32"))
    return undefined;
  const count = Math.max(0, Math.ceil((limit - start) / delta));
  const values = Array.from({ length: count }, (_, i) => start + i * delta);
  return [constant(tensor(dtype, [count], values))];
};

const size: Substitute = (inputs) => {
  const shape = staticShape(first(inputs).shape);
  return shape ? [ops.scalar(elementCount(shape), "int64")] : undefined;
};

/** An inner axis of length 0 crashes the WebGPU kernel; the product is zeros. */
const matmul: Substitute = (inputs, node) => {
  const a = first(inputs);
  if (a.shape.at(-1) !== 0) return undefined;
  const y = node.outputs[0] as Value;
  return [ops.full(y.shape, 0, y.dtype, inputs)];
};

/** Inference only: masks are fed from outside, because random kernels differ between backends or are missing. */
const dropout: Substitute = (inputs, node) => {
  const [x, , training] = inputs;
  const mode =
    training &&
    training.source.kind === "constant" &&
    "data" in training.source.data &&
    training.source.data.data[0];
  if (training && Number(mode) !== 0) {
    throw new TunesmithError("attribute-unsupported", `${describe(node)}: random masks are not portable`, {
      fix: "multiply by a mask that is fed as an input",
    });
  }
  return [op("Identity", [x]), ops.full((x as Value).shape, 1, "bool", [x as Value])];
};

/** The kernels fail when asked for their statistics. */
const skipLayerNorm: Substitute = (inputs, node) => {
  if (node.outputs.length < 2) return undefined;
  const [x, skip, gamma, beta, bias] = inputs as [Value, Value, Value, Value | undefined, Value | undefined];
  const joined = ops.add(x, skip);
  const total = bias ? ops.add(joined, bias) : joined;
  const attrs = { axis: { i: -1 }, epsilon: { f: float(node, "epsilon", 1e-12) } };
  const norm = makeNode("LayerNormalization", beta ? [total, gamma, beta] : [total, gamma], attrs, {
    outputs: 3,
  });
  return [...norm.outputs, total];
};

const skipRmsNorm: Substitute = (inputs, node) => {
  if (node.outputs.length < 2) return undefined;
  const [x, skip, gamma, bias] = inputs as [Value, Value, Value, Value | undefined];
  const joined = ops.add(x, skip);
  const total = bias ? ops.add(joined, bias) : joined;
  const epsilon = float(node, "epsilon", 1e-12);
  const mean2 = ops.reduceMean(ops.square(total), [-1]);
  return [
    ops.rmsNorm(total, gamma, epsilon),
    undefined,
    ops.reciprocal(ops.sqrt(ops.add(mean2, epsilon))),
    total,
  ];
};

const LOWEST = -3.4028234663852886e38;

/** Values and flat positions of the window maxima, tap by tap; the first of equals wins, as in the kernels. */
const maxPoolWithIndices: Substitute = (inputs, node) => {
  if (node.outputs.length < 2) return undefined;
  const x = first(inputs);
  const shape = staticShape(x.shape);
  if (!shape || x.dtype !== "float32") return undefined;
  const window = windowOf({ ...node, inputs: [x] });
  const [lengths, output] = [shape.slice(2), window.output as readonly number[]];
  const reach = output.map(
    (count, at) =>
      (count - 1) * pick(window.strides, at) + (pick(window.kernel, at) - 1) * pick(window.dilations, at) + 1,
  );
  const after = reach.map((end, at) => Math.max(0, end - pick(lengths, at) - pick(window.before, at)));
  const padded = op("Pad", [x, ops.ints([0, 0, ...window.before, 0, 0, ...after]), ops.scalar(LOWEST)]);
  let best: { value: Value; index: Value } | undefined;
  for (const tap of taps(window.kernel)) {
    const starts = tap.map((offset, at) => offset * pick(window.dilations, at));
    const ends = starts.map((start, at) => start + (pick(output, at) - 1) * pick(window.strides, at) + 1);
    const axes = starts.map((_, at) => at + 2);
    const value = op("Slice", [
      padded,
      ops.ints(starts),
      ops.ints(ends),
      ops.ints(axes),
      ops.ints(window.strides),
    ]);
    const index = flatPositions(starts, lengths, output, window);
    if (!best) best = { value, index };
    else {
      const better = ops.greater(value, best.value);
      best = { value: ops.where(better, value, best.value), index: ops.where(better, index, best.index) };
    }
  }
  if (!best) return undefined;
  const [n, c] = shape as [number, number];
  const plane = elementCount(lengths);
  const planes = Int32Array.from({ length: n * c }, (_, i) => i * plane);
  const base = constant(tensor("int32", [n, c, ...lengths.map(() => 1)], planes));
  const flat = ops.add(ops.expand(best.index, [n, c, ...output]), base);
  return [best.value, ops.cast(flat, "int64")];
};

const pick = (list: readonly number[], at: number): number => list[at] ?? 0;

/** All positions inside a kernel, last axis fastest. */
const taps = (kernel: readonly number[]): number[][] =>
  kernel.reduce<number[][]>(
    (acc, size) => acc.flatMap((tap) => Array.from({ length: size }, (_, i) => [...tap, i])),
    [[]],
  );

/** Where one tap of every window lies in its plane, `[1, 1, ...output]`; anything for positions in the padding. */
function flatPositions(
  starts: readonly number[],
  lengths: readonly number[],
  output: readonly number[],
  window: { readonly strides: readonly number[]; readonly before: readonly number[] },
): Value {
  const axes = output.map((count, at) =>
    Array.from(
      { length: count },
      (_, i) => i * pick(window.strides, at) + pick(starts, at) - pick(window.before, at),
    ),
  );
  const flat = axes.reduce<number[]>(
    (acc, positions, at) =>
      acc.flatMap((base) => positions.map((position) => base * pick(lengths, at) + position)),
    [0],
  );
  return constant(tensor("int32", [1, 1, ...output], flat));
}

const decomposedIf =
  (name: string, applies: (node: Node) => boolean): Substitute =>
  (inputs, node) =>
    applies(node) ? decompositions.get(name)?.(inputs, node) : undefined;

const EXPANDED =
  "com.microsoft.FusedMatMul GroupNormalization GridSample LpPool SpaceToDepth MeanVarianceNormalization RNN SoftmaxCrossEntropyLoss NegativeLogLikelihoodLoss";

/** Operators without a kernel whose decomposition serves every backend. */
export const expansions: ReadonlyMap<string, Substitute> = new Map(
  EXPANDED.split(" ").map((name): [string, Substitute] => [name, decomposedIf(name, () => true)]),
);

/** Keyed by operator (`domain.op` outside ai.onnx). IsNaN and IsInf stay: shaders may assume that neither occurs. */
export const substitutes: ReadonlyMap<string, Substitute> = new Map<string, Substitute>([
  ["LogSoftmax", logSoftmax],
  ["Sin", inFloat32(sine)],
  ["Cos", inFloat32(cosine)],
  ["Sign", sign],
  ["Round", round],
  ["Selu", selu],
  ["Celu", celu],
  ["Softsign", unary((x) => ops.div(x, ops.add(ops.abs(x), 1)))],
  ["Hardmax", hardmax],
  ["Mod", mod],
  ["Sum", sum],
  ["Mean", mean],
  ["ConstantOfShape", constantOfShape],
  ["OneHot", oneHot],
  ["Range", range],
  ["Size", size],
  ["MatMul", matmul],
  ["Dropout", dropout],
  ["MaxPool", maxPoolWithIndices],
  ["com.microsoft.SkipLayerNormalization", skipLayerNorm],
  ["com.microsoft.SkipSimplifiedLayerNormalization", skipRmsNorm],
  ["BatchNormalization", decomposedIf("BatchNormalization", (node) => int(node, "training_mode", 0) !== 0)],
  ["Resize", decomposedIf("Resize", (node) => int(node, "antialias", 0) !== 0)],
]);
