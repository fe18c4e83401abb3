import {
  arrayOf,
  bytesOf,
  type Dtype,
  elementCount,
  isFloat,
  isTensorRef,
  type NumericData,
  type Tensor,
  tensor,
} from "../tensor/index.js";
import { staticShape } from "./dims.js";
import { axisAttr, intAttr, intsAttr } from "./infer/types.js";
import { numbersOf, simpleInts } from "./ints.js";
import type { Dim, Node, Value } from "./types.js";

/** Types whose elements are plain JavaScript numbers or bigints; half and packed types are left alone. */
const PLAIN: readonly Dtype[] =
  "float32 float64 int64 int32 uint64 uint32 int16 uint16 int8 uint8 bool".split(" ") as Dtype[];

interface Operand {
  readonly shape: readonly number[];
  readonly dtype: Dtype;
  readonly data: NumericData;
}

interface Result {
  readonly shape: readonly number[];
  readonly dtype: Dtype;
}

type Kernel = (
  node: Node,
  operands: readonly (Operand | undefined)[],
  result: Result,
  index: number,
) => NumericData | undefined;

const MAX_ELEMENTS = 4096;
const memo = new WeakMap<Value, Tensor | null>();

/**
 * The content of a small value that does not depend on any feed, computed here: a constant in memory, shape
 * arithmetic, and what operators known here make of those. Undefined for everything else.
 */
export function knownTensor(value: Value): Tensor | undefined {
  let known = memo.get(value);
  if (known === undefined) {
    known = compute(value) ?? null;
    memo.set(value, known);
  }
  return known ?? undefined;
}

function compute(value: Value): Tensor | undefined {
  if (value.source.kind === "input" || !PLAIN.includes(value.dtype)) return undefined;
  if (value.source.kind === "constant") return isTensorRef(value.source.data) ? undefined : value.source.data;
  const shape = staticShape(value.shape);
  if (!shape || elementCount(shape) > MAX_ELEMENTS) return undefined;
  const numbers = isFloat(value.dtype) ? undefined : simpleInts(value);
  if (numbers && numbers.length === elementCount(shape) && numbers.every(isSafeInteger)) {
    return tensor(value.dtype, shape, numbers as readonly number[]);
  }
  const { node, index } = value.source;
  return node.domain === "" ? evaluate(node, { dtype: value.dtype, shape }, index) : undefined;
}

const isSafeInteger = (dim: Dim) => typeof dim === "number" && Number.isSafeInteger(dim);

function evaluate(node: Node, result: Result, index: number): Tensor | undefined {
  const kernel = KERNELS[node.op];
  if (!kernel || node.inputs.length === 0) return undefined;
  const operands = node.inputs.map((value) => value && operandOf(value));
  if (node.inputs.some((value, at) => value && !operands[at])) return undefined;
  const data = kernel(node, operands, result, index);
  return data?.length === elementCount(result.shape) ? { ...result, data } : undefined;
}

function operandOf(value: Value): Operand | undefined {
  const known = knownTensor(value);
  if (!known || !PLAIN.includes(known.dtype) || known.data.length > MAX_ELEMENTS) return undefined;
  return { dtype: known.dtype, shape: known.shape, data: known.data as NumericData };
}

const allocate = (result: Result): NumericData => new (arrayOf(result.dtype))(elementCount(result.shape));
const isBig = (dtype: Dtype) => dtype === "int64" || dtype === "uint64";

/** Stores a number; an integer result that a number cannot hold exactly gives up. */
function store(data: NumericData, index: number, value: number, dtype: Dtype): boolean {
  if (!dtype.startsWith("float") && !Number.isSafeInteger(value)) return false;
  data[index] = (isBig(dtype) ? BigInt(value) : value) as never;
  return true;
}

/** Element of `operand` that broadcasting puts at position `at` of a result of shape `shape`. */
function broadcastIndex(at: number, shape: readonly number[], operand: Operand): number {
  let [rest, index, stride] = [at, 0, 1];
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    const length = shape[axis] as number;
    const position = rest % length;
    rest = Math.floor(rest / length);
    const own = operand.shape[axis - (shape.length - operand.shape.length)];
    if (own === undefined) continue;
    if (own > 1) index += position * stride;
    stride *= own;
  }
  return index;
}

/** Computes every element from the broadcast elements of all operands, as numbers. */
const elementwise =
  (f: (values: number[], node: Node, operands: readonly (Operand | undefined)[]) => number): Kernel =>
  (node, operands, result) => {
    const present = operands.filter((operand) => operand !== undefined);
    const data = allocate(result);
    for (let at = 0; at < data.length; at++) {
      const values = present.map((operand) =>
        Number(operand.data[broadcastIndex(at, result.shape, operand)]),
      );
      if (present.some((operand, i) => isBig(operand.dtype) && !Number.isSafeInteger(values[i])))
        return undefined;
      if (!store(data, at, f(values, node, operands), result.dtype)) return undefined;
    }
    return data;
  };

const unary = (f: (x: number) => number) => elementwise(([x]) => f(x as number));
const binary = (f: (x: number, y: number) => number) => elementwise(([x, y]) => f(x as number, y as number));
const nary = (f: (x: number, y: number) => number) =>
  elementwise((values) => values.reduce((x, y) => f(x, y)));
const compare = (f: (x: number, y: number) => boolean) => binary((x, y) => Number(f(x, y)));

const integerTypes = (operands: readonly (Operand | undefined)[]) => !operands[0]?.dtype.startsWith("float");

/** Half to even, as ONNX rounds. */
function roundEven(x: number): number {
  const low = Math.floor(x);
  if (x - low !== 0.5) return Math.round(x);
  return low % 2 === 0 ? low : low + 1;
}

/** Copies elements by a map from result positions to positions in the first operand; exact for every type. */
const move =
  (
    source: (
      node: Node,
      operands: readonly (Operand | undefined)[],
      result: Result,
      index: number,
    ) => ((at: number) => number) | undefined,
  ): Kernel =>
  (node, operands, result, index) => {
    const [x] = operands;
    const from = source(node, operands, result, index);
    if (!x || !from) return undefined;
    const data = allocate(result);
    for (let at = 0; at < data.length; at++) data[at] = x.data[from(at)] as never;
    return data;
  };

const same: Kernel = move(() => (at) => at);
const spread: Kernel = move((_, [x], result) => x && ((at) => broadcastIndex(at, result.shape, x)));

function strides(shape: readonly number[]): number[] {
  const out = new Array<number>(shape.length).fill(1);
  for (let axis = shape.length - 2; axis >= 0; axis--)
    out[axis] = (out[axis + 1] as number) * (shape[axis + 1] as number);
  return out;
}

/** Coordinates of a position. */
function unravel(at: number, shape: readonly number[]): number[] {
  let rest = at;
  return strides(shape).map((stride) => {
    const position = Math.floor(rest / stride);
    rest %= stride;
    return position;
  });
}

const ravel = (position: readonly number[], shape: readonly number[]) =>
  strides(shape).reduce((sum, stride, axis) => sum + stride * (position[axis] as number), 0);

const transpose = move((node, [x], result) => {
  if (!x) return undefined;
  const perm = intsAttr(node.attrs, "perm") ?? x.shape.map((_, axis) => x.shape.length - 1 - axis);
  return (at) => {
    const to = unravel(at, result.shape);
    const from = new Array<number>(to.length);
    for (const [axis, source] of perm.entries()) from[source] = to[axis] as number;
    return ravel(from, x.shape);
  };
});

const gather = move((node, [x, indices], result) => {
  if (!x || !indices) return undefined;
  const raw = intAttr(node.attrs, "axis", 0);
  const axis = raw < 0 ? raw + x.shape.length : raw;
  const rank = indices.shape.length;
  const length = x.shape[axis] as number;
  const chosen = Array.from(indices.data as ArrayLike<number | bigint>, Number);
  if (chosen.some((at) => at < -length || at >= length)) return undefined;
  return (at) => {
    const to = unravel(at, result.shape);
    const row = chosen[ravel(to.slice(axis, axis + rank), indices.shape)] as number;
    return ravel([...to.slice(0, axis), row < 0 ? row + length : row, ...to.slice(axis + rank)], x.shape);
  };
});

const slice = move((node, [x], result) => {
  const starts = numbersOf(node.inputs[1]);
  const axes = node.inputs[3] ? numbersOf(node.inputs[3]) : starts?.map((_, axis) => axis);
  const steps = node.inputs[4] ? numbersOf(node.inputs[4]) : starts?.map(() => 1);
  if (!x || !starts || !axes || !steps) return undefined;
  const first = x.shape.map(() => 0);
  const stride = x.shape.map(() => 1);
  for (const [index, raw] of axes.entries()) {
    const axis = raw < 0 ? raw + x.shape.length : raw;
    const [length, step, start] = [x.shape[axis] as number, steps[index] as number, starts[index] as number];
    const wrapped = start < 0 ? start + length : start;
    first[axis] = Math.min(Math.max(wrapped, 0), step > 0 ? length : length - 1);
    stride[axis] = step;
  }
  return (at) => {
    const to = unravel(at, result.shape);
    return ravel(
      to.map((position, axis) => (first[axis] as number) + position * (stride[axis] as number)),
      x.shape,
    );
  };
});

const concat: Kernel = (node, operands, result) => {
  const data = allocate(result);
  const raw = intAttr(node.attrs, "axis", 0);
  const axis = raw < 0 ? raw + result.shape.length : raw;
  let start = 0;
  for (const operand of operands) {
    if (!operand) return undefined;
    for (let at = 0; at < operand.data.length; at++) {
      const position = unravel(at, operand.shape);
      position[axis] = (position[axis] as number) + start;
      data[ravel(position, result.shape)] = operand.data[at] as never;
    }
    start += operand.shape[axis] as number;
  }
  return data;
};

const split = move((node, [x], result, index) => {
  if (!x) return undefined;
  const axis = axisAttr({ ...node, outputs: undefined }, "axis", 0, x.shape.length);
  const before = node.outputs.slice(0, index).reduce((sum, value) => sum + Number(value.shape[axis]), 0);
  return (at) => {
    const position = unravel(at, result.shape);
    position[axis] = (position[axis] as number) + before;
    return ravel(position, x.shape);
  };
});

const where: Kernel = (_, [condition, a, b], result) => {
  if (!condition || !a || !b) return undefined;
  const data = allocate(result);
  for (let at = 0; at < data.length; at++) {
    const chosen = condition.data[broadcastIndex(at, result.shape, condition)] ? a : b;
    data[at] = chosen.data[broadcastIndex(at, result.shape, chosen)] as never;
  }
  return data;
};

const castTo: Kernel = (node, operands, result, index) => {
  const [x] = operands;
  if (x?.dtype === result.dtype) return same(node, operands, result, index);
  const toFloat = result.dtype.startsWith("float");
  const convert = (value: number) =>
    result.dtype === "bool" ? Number(value !== 0) : toFloat ? value : Math.trunc(value);
  return elementwise(([value]) => convert(value as number))(node, operands.slice(0, 1), result, index);
};

const range: Kernel = (_, [start, , delta], result) => {
  const [first, step] = [Number(start?.data[0]), Number(delta?.data[0])];
  const data = allocate(result);
  for (let at = 0; at < data.length; at++)
    if (!store(data, at, first + at * step, result.dtype)) return undefined;
  return data;
};

const constantOfShape: Kernel = (node, _, result) => {
  const attr = node.attrs.value;
  const data = allocate(result);
  if (attr && "t" in attr && bytesOf(attr.t).byteLength > 0)
    data.fill((attr.t.data as NumericData)[0] as never);
  return data;
};

const KERNELS: Readonly<Record<string, Kernel>> = {
  Neg: unary((x) => -x),
  Abs: unary(Math.abs),
  Sqrt: unary(Math.sqrt),
  Exp: unary(Math.exp),
  Log: unary(Math.log),
  Sin: unary(Math.sin),
  Cos: unary(Math.cos),
  Reciprocal: unary((x) => 1 / x),
  Floor: unary(Math.floor),
  Ceil: unary(Math.ceil),
  Round: unary(roundEven),
  Sign: unary(Math.sign),
  Not: unary((x) => Number(x === 0)),
  Add: binary((x, y) => x + y),
  Sub: binary((x, y) => x - y),
  Mul: binary((x, y) => x * y),
  Div: elementwise(([x, y], _, operands) => {
    const quotient = (x as number) / (y as number);
    return integerTypes(operands) ? Math.trunc(quotient) : quotient;
  }),
  Mod: elementwise(([x, y], node) => {
    const [a, b] = [x as number, y as number];
    return intAttr(node.attrs, "fmod", 0) ? a % b : a - Math.floor(a / b) * b;
  }),
  Pow: binary((x, y) => x ** y),
  Min: nary(Math.min),
  Max: nary(Math.max),
  Sum: nary((x, y) => x + y),
  Equal: compare((x, y) => x === y),
  Less: compare((x, y) => x < y),
  LessOrEqual: compare((x, y) => x <= y),
  Greater: compare((x, y) => x > y),
  GreaterOrEqual: compare((x, y) => x >= y),
  And: compare((x, y) => x !== 0 && y !== 0),
  Or: compare((x, y) => x !== 0 || y !== 0),
  Xor: compare((x, y) => (x !== 0) !== (y !== 0)),
  Where: where,
  Cast: castTo,
  Reshape: same,
  Squeeze: same,
  Unsqueeze: same,
  Flatten: same,
  Expand: spread,
  Tile: move(
    (_, [x], result) =>
      x &&
      ((at) =>
        ravel(
          unravel(at, result.shape).map((p, axis) => p % (x.shape[axis] as number)),
          x.shape,
        )),
  ),
  Transpose: transpose,
  Gather: gather,
  Slice: slice,
  Split: split,
  Concat: concat,
  Range: range,
  ConstantOfShape: constantOfShape,
};
