import type { Dtype } from "../tensor/index.js";
import { dimAdd, dimDiv, dimMul, dimProduct, dimSub } from "./dims.js";
import { knownTensor } from "./evaluate.js";
import type { Dim, Node, Value } from "./types.js";

const memo = new WeakMap<Value, readonly Dim[] | null>();
const MAX_ELEMENTS = 4096;

/**
 * The content of a small integer tensor as dimensions, when it is known from constants, `Shape` nodes and the
 * arithmetic exporters do on them; undefined when it depends on data. Scalars give one element.
 */
export function intsOf(value: Value): readonly Dim[] | undefined {
  const simple = simpleInts(value);
  if (simple || value.source.kind !== "node" || !INTEGER.includes(value.dtype)) return simple;
  const known = knownTensor(value);
  return known && Array.from(known.data as ArrayLike<number | bigint>, Number);
}

/** The part of `intsOf` that also works with symbols; it knows few operators. */
export function simpleInts(value: Value): readonly Dim[] | undefined {
  let known = memo.get(value);
  if (known === undefined) {
    known = evaluate(value) ?? null;
    memo.set(value, known);
  }
  return known ?? undefined;
}

/** Like `intsOf`, all numbers. */
export function numbersOf(value: Value | undefined): number[] | undefined {
  const ints = value && intsOf(value);
  return ints?.every((dim) => typeof dim === "number") ? (ints as number[]).slice() : undefined;
}

const INTEGER: readonly Dtype[] = ["int64", "int32", "bool", "uint8", "int8", "uint32", "uint64"];

const ANY_RANK = ["Shape", "Size", "Identity", "Cast", "Squeeze", "Unsqueeze", "Reshape"];

/** An axis length is never negative, so a symbol differs from -1 whatever it stands for. */
function equal(a: Dim, b: Dim): Dim | undefined {
  if (a === b) return 1;
  const [x, y] = [a, b].map((dim) => (typeof dim === "number" ? dim : undefined));
  return (x !== undefined && y !== undefined) || (x ?? 0) < 0 || (y ?? 0) < 0 ? 0 : undefined;
}

/** Integer division of ONNX cuts towards zero. */
function quotient(a: Dim, b: Dim): Dim | undefined {
  if (typeof a !== "number" || typeof b !== "number") return dimDiv(a, b);
  return b === 0 ? undefined : Math.trunc(a / b) + 0;
}

function evaluate(value: Value): readonly Dim[] | undefined {
  if (value.source.kind === "constant") {
    const { data } = value.source;
    if (!("data" in data) || !INTEGER.includes(data.dtype) || data.data.length > MAX_ELEMENTS)
      return undefined;
    return Array.from(data.data as ArrayLike<number | bigint>, Number);
  }
  return value.source.kind === "node" ? evaluateNode(value.source.node, value.source.index) : undefined;
}

function evaluateNode(node: Node, index: number): readonly Dim[] | undefined {
  const operand = (index: number) => {
    const value = node.inputs[index];
    return value && intsOf(value);
  };
  const attrInt = (name: string, fallback: number) => {
    const attr = node.attrs[name];
    return attr && "i" in attr ? Number(attr.i) : fallback;
  };
  // Element order is only simple for vectors and scalars.
  if (!ANY_RANK.includes(node.op) && node.inputs.some((value) => value && value.shape.length > 1))
    return undefined;
  switch (node.op) {
    case "Shape": {
      const shape = node.inputs[0]?.shape ?? [];
      const wrap = (at: number) => (at < 0 ? at + shape.length : at);
      return shape.slice(wrap(attrInt("start", 0)), wrap(attrInt("end", shape.length)));
    }
    case "Cast":
      return node.outputs[0]?.dtype === "bool" ? operand(0)?.map((dim) => (dim === 0 ? 0 : 1)) : operand(0);
    case "Identity":
    case "Squeeze":
    case "Unsqueeze":
    case "Reshape":
      return operand(0);
    case "Concat": {
      const parts = node.inputs.map((_, index) => operand(index));
      return parts.every((part) => part !== undefined) ? parts.flat() : undefined;
    }
    case "Gather": {
      const [data, at] = [operand(0), operand(1)];
      if (!data || !at || node.inputs[0]?.shape.length !== 1) return undefined;
      return at.map((i) => data[Number(i) < 0 ? Number(i) + data.length : Number(i)] as Dim);
    }
    case "Slice":
      return sliceInts(node, operand);
    case "Add":
      return zip(operand(0), operand(1), dimAdd);
    case "Sub":
      return zip(operand(0), operand(1), dimSub);
    case "Mul":
      return zip(operand(0), operand(1), dimMul);
    case "Div":
      return INTEGER.includes(node.inputs[0]?.dtype ?? "float32")
        ? zip(operand(0), operand(1), quotient)
        : undefined;
    case "Neg":
      return operand(0)?.map((dim) => dimSub(0, dim));
    case "Min":
    case "Max":
      return extreme(
        node.op === "Min" ? Math.min : Math.max,
        node.inputs.map((_, at) => operand(at)),
      );
    case "Size":
      return [dimProduct(node.inputs[0]?.shape ?? [])];
    case "ReduceProd": {
      const factors = operand(0);
      return factors && node.inputs[0]?.shape.length === 1 ? [dimProduct(factors)] : undefined;
    }
    case "Range":
      return rangeInts(operand(0)?.[0], operand(1)?.[0], operand(2)?.[0]);
    case "Split":
      return splitInts(operand(0), operand(1), index, node.outputs.length);
    case "ConstantOfShape": {
      const length = operand(0);
      const attr = node.attrs.value;
      const fill = attr && "t" in attr ? Number((attr.t.data as ArrayLike<number>)[0]) : 0;
      if (length?.length !== 1 || typeof length[0] !== "number" || !Number.isInteger(fill)) return undefined;
      return length[0] <= MAX_ELEMENTS ? Array.from({ length: length[0] }, () => fill) : undefined;
    }
    case "Equal":
      return zip(operand(0), operand(1), equal);
    case "Where":
      return zip3(operand(0), operand(1), operand(2));
    default:
      return undefined;
  }
}

function extreme(
  pick: (a: number, b: number) => number,
  parts: (readonly Dim[] | undefined)[],
): readonly Dim[] | undefined {
  return parts.reduce((a, b) => {
    const known = [a, b].every((part) => part?.every((dim) => typeof dim === "number"));
    return known ? zip(a, b, (x, y) => pick(Number(x), Number(y))) : undefined;
  });
}

function rangeInts(
  start: Dim | undefined,
  limit: Dim | undefined,
  delta: Dim | undefined,
): readonly Dim[] | undefined {
  if (typeof start !== "number" || typeof limit !== "number" || typeof delta !== "number" || delta === 0)
    return undefined;
  const length = Math.max(0, Math.ceil((limit - start) / delta));
  return length <= MAX_ELEMENTS ? Array.from({ length }, (_, at) => start + at * delta) : undefined;
}

function splitInts(
  data: readonly Dim[] | undefined,
  sizes: readonly Dim[] | undefined,
  index: number,
  count: number,
): readonly Dim[] | undefined {
  if (!data) return undefined;
  const even = Math.ceil(data.length / count);
  const lengths = sizes ?? Array.from({ length: count }, () => even);
  const start = lengths.slice(0, index).reduce<number>((sum, length) => sum + Number(length), 0);
  return data.slice(start, start + Number(lengths[index]));
}

function sliceInts(
  node: Node,
  operand: (index: number) => readonly Dim[] | undefined,
): readonly Dim[] | undefined {
  const [data, starts, ends] = [operand(0), operand(1), operand(2)];
  const step = node.inputs[4] ? operand(4) : [1];
  if (!data || typeof starts?.[0] !== "number" || typeof ends?.[0] !== "number" || step?.[0] !== 1)
    return undefined;
  return data.slice(starts[0], ends[0] > data.length ? undefined : ends[0]);
}

function zip(
  a: readonly Dim[] | undefined,
  b: readonly Dim[] | undefined,
  f: (x: Dim, y: Dim) => Dim | undefined,
): readonly Dim[] | undefined {
  if (!a || !b || (a.length !== b.length && a.length !== 1 && b.length !== 1)) return undefined;
  const length = a.length === 1 ? b.length : a.length;
  const result = Array.from({ length }, (_, i) =>
    f(a[a.length === 1 ? 0 : i] as Dim, b[b.length === 1 ? 0 : i] as Dim),
  );
  return result.every((dim) => dim !== undefined) ? result : undefined;
}

function zip3(
  condition: readonly Dim[] | undefined,
  a: readonly Dim[] | undefined,
  b: readonly Dim[] | undefined,
): readonly Dim[] | undefined {
  if (!condition?.every((dim) => typeof dim === "number") || !a || !b) return undefined;
  const length = Math.max(condition.length, a.length, b.length);
  const pick = (list: readonly Dim[], i: number) => list[list.length === 1 ? 0 : i] as Dim;
  return Array.from({ length }, (_, i) => (pick(condition, i) ? pick(a, i) : pick(b, i)));
}
