import { op } from "../create.js";
import type { Attrs, Value } from "../types.js";
import { ints } from "./base.js";

/** What one normalised channel is scaled and moved by, and the running statistics of evaluation, `[C]` each. */
export interface BatchNormTensors {
  readonly scale: Value;
  readonly bias: Value;
  readonly mean: Value;
  readonly variance: Value;
}

/**
 * BatchNormalization of `[N, C, ...space]` by running statistics. `momentum` is the share of the old statistics that
 * an update keeps (1 less PyTorch's), for passes that train them.
 */
export const batchNorm = (
  x: Value,
  { scale, bias, mean, variance }: BatchNormTensors,
  { epsilon = 1e-5, momentum = 0.9 }: { readonly epsilon?: number; readonly momentum?: number } = {},
): Value =>
  op(
    "BatchNormalization",
    [x, scale, bias, mean, variance],
    { epsilon: { f: epsilon }, momentum: { f: momentum } },
    { outputs: 1 },
  );

/** InstanceNormalization of `[N, C, ...space]`: mean and variance of every channel of every example. */
export const instanceNorm = (x: Value, scale: Value, bias: Value, epsilon: number): Value =>
  op("InstanceNormalization", [x, scale, bias], { epsilon: { f: epsilon } });

/** How a pooling window slides; stride 1 and no padding by default. */
export interface PoolOptions {
  readonly strides?: readonly number[];
  /** Before and after each spatial axis: all beginnings, then all ends. */
  readonly pads?: readonly number[];
}

const pool =
  (name: string) =>
  (x: Value, kernel: readonly number[], options: PoolOptions = {}): Value => {
    const attrs: Record<string, Attrs[string]> = { kernel_shape: { ints: kernel } };
    for (const key of ["strides", "pads"] as const) {
      const given = options[key];
      if (given) attrs[key] = { ints: given };
    }
    return op(name, [x], attrs, { outputs: 1 });
  };

/** The largest value under a sliding window. */
export const maxPool = pool("MaxPool");
/** The mean under a sliding window; padding does not count. */
export const averagePool = pool("AveragePool");
/** The mean of each channel, `[N, C, 1, ...]`. */
export const globalAveragePool = (x: Value): Value => op("GlobalAveragePool", [x]);

/** How Resize reads between pixels: PyTorch's `interpolate` without `align_corners`. */
export type ResizeMode = "nearest" | "linear" | "cubic";

/** `[N, C, H, W]` with other height and width. */
export function resize(x: Value, size: readonly [number, number], mode: ResizeMode): Value {
  const attrs: Record<string, Attrs[string]> = {
    mode: { s: mode },
    axes: { ints: [2, 3] },
    coordinate_transformation_mode: { s: mode === "nearest" ? "asymmetric" : "half_pixel" },
  };
  if (mode === "nearest") attrs.nearest_mode = { s: "floor" };
  if (mode === "cubic") attrs.cubic_coeff_a = { f: -0.75 };
  return op("Resize", [x, undefined, undefined, ints(size)], attrs);
}
