import { TunesmithError } from "../../errors/index.js";
import { type Dtype, dtypeToOnnx, tensor } from "../../tensor/index.js";
import { constant, op } from "../create.js";
import type { Dim, Shape, Value } from "../types.js";

/** Where a builder takes a value, a plain number stands for a scalar of the other operand's dtype. */
export type Operand = Value | number;

/** Int64 constant vector. */
export function ints(values: readonly number[]): Value {
  return constant(tensor("int64", [values.length], BigInt64Array.from(values, BigInt)));
}

/** Scalar constant of any numeric dtype. */
export function scalar(value: number, dtype: Dtype = "float32"): Value {
  return constant(tensor(dtype, [], [value]));
}

/** Lifts a number to a scalar of `like`'s dtype. */
export const lift = (operand: Operand, like: Value): Value =>
  typeof operand === "number" ? scalar(operand, like.dtype) : operand;

/** Binary operator in which one side may be a number. */
export const binary =
  (name: string) =>
  (a: Operand, b: Operand): Value => {
    if (typeof a !== "number") return op(name, [a, lift(b, a)]);
    if (typeof b !== "number") return op(name, [lift(a, b), b]);
    throw new TunesmithError("graph-invalid", `${name} of two plain numbers: compute it in JavaScript`);
  };

export const unary =
  (name: string) =>
  (x: Value): Value =>
    op(name, [x]);

/** A shape as an int64 tensor: a constant when static, otherwise assembled from `from`'s run-time shape. */
export function shapeTensor(shape: Shape, from: readonly Value[]): Value {
  if (shape.every((dim) => typeof dim === "number")) return ints(shape as readonly number[]);
  const parts: Value[] = shape.map((dim) => (typeof dim === "number" ? ints([dim]) : dimTensor(dim, from)));
  return parts.length === 1 ? (parts[0] as Value) : op("Concat", parts, { axis: { i: 0 } });
}

/** Run-time value of a symbolic dimension, `[1]`, read off a value that has it as an axis. */
function dimTensor(dim: Dim, from: readonly Value[]): Value {
  for (const value of from) {
    const axis = value.shape.indexOf(dim);
    if (axis >= 0) return op("Shape", [value], { start: { i: axis }, end: { i: axis + 1 } });
  }
  for (const operator of ["*", "+", "/", "-"] as const) {
    const parts = splitExpression(String(dim), operator);
    if (!parts) continue;
    const [left, right] = parts.map((part) =>
      /^\d+$/.test(part) ? ints([Number(part)]) : dimTensor(part, from),
    );
    const name = { "*": "Mul", "+": "Add", "/": "Div", "-": "Sub" }[operator];
    return op(name, [left, right]);
  }
  throw new TunesmithError("graph-invalid", `symbolic dimension '${dim}' is not an axis of any operand`);
}

/** `a*b` at the top level of the expression → [a, b] with outer parentheses removed. */
function splitExpression(text: string, operator: string): [string, string] | undefined {
  let depth = 0;
  for (let at = text.length - 1; at > 0; at--) {
    if (text[at] === ")") depth++;
    else if (text[at] === "(") depth--;
    else if (depth === 0 && text[at] === operator)
      return [strip(text.slice(0, at)), strip(text.slice(at + 1))];
  }
  return undefined;
}

const strip = (text: string) => (text.startsWith("(") && text.endsWith(")") ? text.slice(1, -1) : text);

/** The value as another dtype; itself when it has it already. */
export const cast = (x: Value, to: Dtype): Value =>
  x.dtype === to ? x : op("Cast", [x], { to: { i: dtypeToOnnx(to) } });
