import type { Dtype } from "../tensor/index.js";
import { dimAdd, dimDiv, dimMul, dimSub } from "./dims.js";
import type { Dim, Node, Value } from "./types.js";

const memo = new WeakMap<Value, readonly Dim[] | null>();
const MAX_ELEMENTS = 4096;

/**
 * The content of a small integer tensor as dimensions, when it is known from constants, `Shape` nodes and the
 * arithmetic exporters do on them; undefined when it depends on data. Scalars give one element.
 */
export function intsOf(value: Value): readonly Dim[] | undefined {
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

function evaluate(value: Value): readonly Dim[] | undefined {
  if (value.source.kind === "constant") {
    const { data } = value.source;
    if (!("data" in data) || !INTEGER.includes(data.dtype) || data.data.length > MAX_ELEMENTS) return undefined;
    return Array.from(data.data as ArrayLike<number | bigint>, Number);
  }
  return value.source.kind === "node" ? evaluateNode(value.source.node) : undefined;
}

function evaluateNode(node: Node): readonly Dim[] | undefined {
  const operand = (index: number) => {
    const value = node.inputs[index];
    return value && intsOf(value);
  };
  const attrInt = (name: string, fallback: number) => {
    const attr = node.attrs[name];
    return attr && "i" in attr ? Number(attr.i) : fallback;
  };
  switch (node.op) {
    case "Shape": {
      const shape = node.inputs[0]?.shape ?? [];
      const wrap = (at: number) => (at < 0 ? at + shape.length : at);
      return shape.slice(wrap(attrInt("start", 0)), wrap(attrInt("end", shape.length)));
    }
    case "Identity":
    case "Cast":
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
      return zip(operand(0), operand(1), dimDiv);
    case "ConstantOfShape": {
      const length = operand(0);
      const attr = node.attrs.value;
      const fill = attr && "t" in attr ? Number((attr.t.data as ArrayLike<number>)[0]) : 0;
      if (length?.length !== 1 || typeof length[0] !== "number" || !Number.isInteger(fill)) return undefined;
      return length[0] <= MAX_ELEMENTS ? Array.from({ length: length[0] }, () => fill) : undefined;
    }
    case "Equal":
      return zip(operand(0), operand(1), (a, b) => (a === b ? 1 : 0));
    case "Where":
      return zip3(operand(0), operand(1), operand(2));
    default:
      return undefined;
  }
}

function sliceInts(node: Node, operand: (index: number) => readonly Dim[] | undefined): readonly Dim[] | undefined {
  const [data, starts, ends] = [operand(0), operand(1), operand(2)];
  const step = node.inputs[4] ? operand(4) : [1];
  if (!data || typeof starts?.[0] !== "number" || typeof ends?.[0] !== "number" || step?.[0] !== 1) return undefined;
  return data.slice(starts[0], ends[0] > data.length ? undefined : ends[0]);
}

function zip(
  a: readonly Dim[] | undefined,
  b: readonly Dim[] | undefined,
  f: (x: Dim, y: Dim) => Dim,
): readonly Dim[] | undefined {
  if (!a || !b || (a.length !== b.length && a.length !== 1 && b.length !== 1)) return undefined;
  const length = Math.max(a.length, b.length);
  return Array.from({ length }, (_, i) => f(a[a.length === 1 ? 0 : i] as Dim, b[b.length === 1 ? 0 : i] as Dim));
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
