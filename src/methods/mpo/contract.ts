import { ops, type Value } from "../../graph/index.js";
import { centreOf, coreShape, type MpoShape } from "./chain.js";

/** Products of the factors before, at and after the middle. */
export interface Thirds {
  readonly out: readonly [number, number, number];
  readonly inn: readonly [number, number, number];
}

export function thirdsOf(shape: MpoShape): Thirds {
  const centre = centreOf(shape);
  const three = (factors: readonly number[]): [number, number, number] => {
    const product = (from: number, to: number) => factors.slice(from, to).reduce((a, b) => a * b, 1);
    return [product(0, centre), product(centre, centre + 1), product(centre + 1, factors.length)];
  };
  return { out: three(shape.outFactors), inn: three(shape.inFactors) };
}

/** A matrix `[out, in]` as the tensor `[left, middle, right]`, each axis its outputs times its inputs. */
export function toThirds(weight: Value, { out, inn }: Thirds): Value {
  const turned = ops.transpose(ops.reshape(weight, [...out, ...inn]), [0, 3, 1, 4, 2, 5]);
  return ops.reshape(turned, [out[0] * inn[0], out[1] * inn[1], out[2] * inn[2]]);
}

/** The way back. */
export function fromThirds(tensor: Value, { out, inn }: Thirds): Value {
  const apart = ops.reshape(tensor, [out[0], inn[0], out[1], inn[1], out[2], inn[2]]);
  const size = (factors: readonly number[]) => factors.reduce((a, b) => a * b, 1);
  return ops.reshape(ops.transpose(apart, [0, 2, 4, 1, 3, 5]), [size(out), size(inn)]);
}

/** Product of the tensors on one side of the middle, outputs before inputs: `[left, d]`, or `[d, right]`. */
export function sideOf(cores: readonly Value[], shape: MpoShape, which: "left" | "right"): Value {
  const from = which === "left" ? 0 : centreOf(shape) + 1;
  let [outer, rows, columns, inner] = coreShape(shape, from) as [number, number, number, number];
  let whole = cores[0] as Value;
  cores.slice(1).forEach((core, index) => {
    const [bond, i, j, after] = coreShape(shape, from + index + 1) as [number, number, number, number];
    const joined = ops.matmul(
      ops.reshape(whole, [outer * rows * columns, bond]),
      ops.reshape(core, [bond, i * j * after]),
    );
    const turned = ops.transpose(
      ops.reshape(joined, [outer, rows, columns, i, j, after]),
      [0, 1, 3, 2, 4, 5],
    );
    [rows, columns, inner] = [rows * i, columns * j, after];
    whole = ops.reshape(turned, [outer, rows, columns, inner]);
  });
  return ops.reshape(whole, which === "left" ? [rows * columns, inner] : [outer, rows * columns]);
}

/** `matrix` `[a, left]` times the first axis of a tensor `[left, middle, right]`. */
export function timesLeft(matrix: Value, tensor: Value): Value {
  const [left, middle, right] = tensor.shape as [number, number, number];
  const product = ops.matmul(matrix, ops.reshape(tensor, [left, middle * right]));
  return ops.reshape(product, [matrix.shape[0] as number, middle, right]);
}

/** The last axis of a tensor `[left, middle, right]` times `matrix` `[right, b]`. */
export function timesRight(tensor: Value, matrix: Value): Value {
  const [left, middle, right] = tensor.shape as [number, number, number];
  const product = ops.matmul(ops.reshape(tensor, [left * middle, right]), matrix);
  return ops.reshape(product, [left, middle, matrix.shape[1] as number]);
}

/** (I + E)·T·(I + F) of a tensor `[left, middle, right]`, E on its first and F on its last axis: each sum is part of its product. */
export function turned(tensor: Value, e: Value, f: Value): Value {
  const [left, middle, right] = tensor.shape as [number, number, number];
  const rows = ops.reshape(tensor, [left, middle * right]);
  const before = ops.reshape(ops.gemm(e, rows, rows), [left * middle, right]);
  return ops.reshape(ops.gemm(before, f, before), [left, middle, right]);
}

/** The matrix `[out, in]` of a chain: sides `[left, d]` and `[d', right]` around a middle of `d` times `d'` bonds. */
export function contractSides(left: Value, central: Value, right: Value, shape: MpoShape): Value {
  const [before, i, j, after] = coreShape(shape, centreOf(shape)) as [number, number, number, number];
  const middle = ops.reshape(central, [before, i * j, after]);
  return fromThirds(timesRight(timesLeft(left, middle), right), thirdsOf(shape));
}
