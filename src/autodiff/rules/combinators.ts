import { ops, type Shape, type Value } from "../../graph/index.js";
import type { VjpContext, VjpRule } from "../types.js";
import { unbroadcast } from "../unbroadcast.js";

/** A rule of one operand: d·f'(x), written from x and y. */
export const pointwise =
  (derivative: (x: Value, y: Value, context: VjpContext) => Value): VjpRule =>
  (context) => {
    const [x, y] = [context.inputs[0] as Value, context.outputs[0] as Value];
    return [ops.mul(context.dy, derivative(x, y, context))];
  };

/** A rule of two broadcast operands, each side built only when wanted. */
export const pairwise =
  (
    left: (dy: Value, a: Value, b: Value, y: Value) => Value,
    right: (dy: Value, a: Value, b: Value, y: Value) => Value,
  ): VjpRule =>
  ({ dy, inputs, outputs, needs }) => {
    const [a, b, y] = [inputs[0] as Value, inputs[1] as Value, outputs[0] as Value];
    return [
      needs(0) ? unbroadcast(left(dy, a, b, y), a.shape, a) : undefined,
      needs(1) ? unbroadcast(right(dy, a, b, y), b.shape, b) : undefined,
    ];
  };

/** A rule of any number of broadcast operands. */
export const each =
  (gradient: (context: VjpContext, index: number) => Value): VjpRule =>
  (context) =>
    context.inputs.map((x, index) =>
      context.needs(index) ? unbroadcast(gradient(context, index), x.shape, x) : undefined,
    );

/** A condition as 0/1 of a float's dtype. */
export const mask = (condition: Value, like: Value): Value => ops.cast(condition, like.dtype);

/** A scalar one of a value's dtype. */
export const one = (x: Value): Value => ops.scalar(1, x.dtype);

/** `perm` such that transposing by it undoes `perm`. */
export const inverse = (perm: readonly number[]): number[] => perm.map((_, axis) => perm.indexOf(axis));

/** Zeros of a shape that may be symbolic, like `x` in dtype. */
export const zeros = (shape: Shape, x: Value, like: readonly Value[] = []): Value =>
  ops.full(shape, 0, x.dtype, [x, ...like]);
