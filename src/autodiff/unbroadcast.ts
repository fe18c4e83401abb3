import { TunesmithError } from "../errors/index.js";
import { ops, type Shape, sameShape, showShape, stretchedAxes, type Value } from "../graph/index.js";

/** Sums `gradient` over the axes along which an operand of shape `shape` was broadcast. */
export function unbroadcast(gradient: Value, shape: Shape, like?: Value): Value {
  if (sameShape(gradient.shape, shape)) return gradient;
  const stretched = stretchedAxes(shape, gradient.shape);
  if (!stretched) {
    throw new TunesmithError(
      "shape-mismatch",
      `cannot tell which axes of ${showShape(gradient.shape)} were broadcast from ${showShape(shape)}`,
      { fix: "bind the graph's symbolic dimensions with specialise() before differentiating" },
    );
  }
  const axes = [...Array(stretched.leading).keys(), ...stretched.axes];
  const summed = axes.length > 0 ? ops.reduceSum(gradient, axes, stretched.leading === 0) : gradient;
  return ops.reshape(summed, shape, like ? [like] : []);
}
