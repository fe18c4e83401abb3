import { type Dim, normalAxis, numbersOf, ops, op, type Value } from "../../graph/index.js";
import type { VjpRule, VjpTable } from "../types.js";
import { unbroadcast } from "../unbroadcast.js";

const reshapeBack: VjpRule = ({ dy, inputs }) => {
  const x = inputs[0] as Value;
  return [ops.reshape(dy, x.shape, [x])];
};

const axisOf = (attrs: Readonly<Record<string, unknown>>, rank: number): number =>
  normalAxis(Number((attrs.axis as { i?: number } | undefined)?.i ?? 0), rank, "axis");

/** Zeros for the gradient of an output that nothing uses. */
const orZeros = (dys: readonly (Value | undefined)[], outputs: readonly Value[]): Value[] =>
  outputs.map((y, index) => dys[index] ?? ops.zerosLike(y));

const slice: VjpRule = ({ dy, inputs }) => {
  const [x, starts, , axesInput, stepsInput] = inputs as [Value, Value, Value, Value | undefined, Value | undefined];
  const from = numbersOf(starts) ?? [];
  const axes = numbersOf(axesInput) ?? from.map((_, at) => at);
  const steps = numbersOf(stepsInput) ?? from.map(() => 1);
  let gradient = dy;
  axes.forEach((raw, at) => {
    const axis = normalAxis(raw, x.shape.length, "Slice");
    gradient = unslice(gradient, x, axis, from[at] as number, steps[at] as number);
  });
  return [gradient];
};

/** Puts a slice's gradient back into zeros along one axis. */
function unslice(dy: Value, x: Value, axis: number, start: number, step: number): Value {
  const total = x.shape[axis] as Dim;
  const taken = dy.shape[axis] as Dim;
  if (typeof total !== "number" || typeof taken !== "number") return unsliceDynamic(dy, x, axis, start, step);
  const rank = x.shape.length;
  const zeros = Array<number>(rank).fill(0);
  const first = Math.min(Math.max(start < 0 ? start + total : start, 0), step < 0 ? total - 1 : total);
  if (step === 1) return ops.pad(dy, zeros.with(axis, first), zeros.with(axis, total - first - taken));
  const rows = ops.ints(Array.from({ length: taken }, (_, i) => first + i * step));
  const shape = dy.shape.with(axis, total);
  const perm = [axis, ...[...shape.keys()].filter((at) => at !== axis)];
  const inverse = perm.map((_, at) => perm.indexOf(at));
  const scattered = ops.scatterNd(
    ops.full(perm.map((at) => shape[at] as Dim), 0, dy.dtype, [dy]),
    ops.unsqueeze(rows, 1),
    ops.transpose(dy, perm),
  );
  return ops.transpose(scattered, inverse);
}

/** Symbolic length: pads are computed at run time from the shapes. Step 1 only. */
function unsliceDynamic(dy: Value, x: Value, axis: number, start: number, step: number): Value {
  if (step !== 1) throw new RangeError("a strided Slice of a symbolic axis has no static gradient");
  const at = (value: Value) => op("Shape", [value], { start: { i: axis }, end: { i: axis + 1 } });
  const total = at(x);
  const before = start < 0 ? ops.add(total, ops.ints([start])) : ops.ints([start]);
  const behind = ops.sub(ops.sub(total, before), at(dy));
  const padded = op("Pad", [dy, ops.concat([before, behind], 0), undefined, ops.ints([axis])]);
  return ops.reshape(padded, dy.shape.with(axis, x.shape[axis] as Dim), [x, dy]);
}

export const shapes: VjpTable = {
  Reshape: reshapeBack,
  Flatten: reshapeBack,
  Squeeze: reshapeBack,
  Unsqueeze: reshapeBack,
  Slice: slice,
  Transpose: ({ dy, inputs, node }) => {
    const rank = (inputs[0] as Value).shape.length;
    const attr = node.attrs.perm;
    const perm = attr && "ints" in attr ? attr.ints.map(Number) : [...Array(rank).keys()].reverse();
    return [ops.transpose(dy, perm.map((_, axis) => perm.indexOf(axis)))];
  },
  Concat: ({ dy, inputs, node }) => {
    const axis = axisOf(node.attrs, dy.shape.length);
    const sizes = inputs.map((value) => value.shape[axis]);
    if (sizes.every((size) => typeof size === "number")) return ops.split(dy, sizes as number[], axis);
    const lengths = inputs.map((value) => op("Shape", [value], { start: { i: axis }, end: { i: axis + 1 } }));
    let from = ops.ints([0]);
    return inputs.map((value, index) => {
      const to = ops.add(from, lengths[index] as Value);
      const piece = op("Slice", [dy, from, to, ops.ints([axis])]);
      from = to;
      return ops.reshape(piece, value.shape, [value]);
    });
  },
  Split: ({ dys, outputs, node }) => {
    const axis = axisOf(node.attrs, (outputs[0] as Value).shape.length);
    return [ops.concat(orZeros(dys, outputs), axis)];
  },
  Expand: ({ dy, inputs }) => {
    const x = inputs[0] as Value;
    return [unbroadcast(dy, x.shape, x)];
  },
};
