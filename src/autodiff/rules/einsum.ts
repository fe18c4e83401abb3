import { TunesmithError } from "../../errors/index.js";
import { einsumTerms } from "../../graph/einsum.js";
import { constant, type Dim, describe, ops, type Value } from "../../graph/index.js";
import { tensor } from "../../tensor/index.js";
import type { VjpContext, VjpTable } from "../types.js";
import { unbroadcast } from "../unbroadcast.js";

/** Identity matrix: ties two letters of a gradient to one repeated letter of the operand. */
function identity(length: Dim, context: VjpContext): Value {
  if (typeof length !== "number") {
    throw new TunesmithError(
      "op-not-differentiable",
      `${describe(context.node)}: a diagonal of symbolic length '${length}'`,
      {
        fix: "bind the graph's symbolic dimensions with specialise() before differentiating",
      },
    );
  }
  const values = Array.from({ length: length * length }, (_, i) => (i % (length + 1) === 0 ? 1 : 0));
  return ops.cast(constant(tensor("float32", [length, length], values)), context.dy.dtype);
}

/** The same contraction with the gradient in place of the operand. */
function operandGradient(
  context: VjpContext,
  terms: readonly string[],
  result: string,
  index: number,
): Value {
  const { inputs, dy } = context;
  const x = inputs[index] as Value;
  const others = [...inputs.keys()].filter((at) => at !== index);
  const operands: Value[] = [dy, ...others.map((at) => inputs[at] as Value)];
  const labels = [result, ...others.map((at) => terms[at] as string)];
  const unused = [..."ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"].filter(
    (letter) => !terms.join("").includes(letter),
  );
  const seen = new Set<string>();
  const letters = [...(terms[index] as string)].map((letter, axis) => {
    if (!seen.has(letter)) {
      seen.add(letter);
      return letter;
    }
    const fresh = unused.shift() as string;
    operands.push(identity(x.shape[axis] as Dim, context));
    labels.push(letter + fresh);
    return fresh;
  });
  // Letters that only this operand has were summed away: their gradient is the same all along.
  const present = new Set(labels.join(""));
  const kept = letters.filter((letter) => present.has(letter));
  const summed = ops.einsum(`${labels.join(",")}->${kept.join("")}`, ...operands);
  const missing = letters.flatMap((letter, axis) => (present.has(letter) ? [] : [axis]));
  if (missing.length === 0) return unbroadcast(summed, x.shape, x);
  const lifted = ops.unsqueeze(summed, ...missing);
  const full = lifted.shape.map((dim, axis) => (missing.includes(axis) ? (x.shape[axis] as Dim) : dim));
  return unbroadcast(ops.expand(lifted, full, [x]), x.shape, x);
}

export const einsums: VjpTable = {
  Einsum: (context) => {
    const equation = context.node.attrs.equation;
    const ranks = context.inputs.map((value) => value.shape.length);
    const { terms, result } = einsumTerms(
      equation && "s" in equation ? equation.s : "",
      ranks,
      describe(context.node),
    );
    return context.inputs.map((_, index) =>
      context.needs(index) ? operandGradient(context, terms, result, index) : undefined,
    );
  },
};
