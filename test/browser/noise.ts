import { type Tensor, tensor } from "../../src/tensor/index.js";

/** Numbers in [-scale, scale), the same on every platform. */
export function noise(seed: number, shape: readonly number[], scale = 1): Tensor {
  let state = (seed * 2654435761 + 12345) >>> 0;
  const length = shape.reduce((a, b) => a * b, 1);
  const values = Float32Array.from({ length }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state / 2 ** 31 - 1) * scale;
  });
  return tensor("float32", shape, values);
}

/** Integers in [0, limit). */
export function indices(
  seed: number,
  shape: readonly number[],
  limit: number,
  dtype: "int64" | "int32" = "int64",
): Tensor {
  const values = Array.from(
    noise(seed, shape).data as Float32Array,
    (x) => Math.floor(((x + 1) / 2) * limit) % limit,
  );
  return tensor(dtype, shape, values);
}
