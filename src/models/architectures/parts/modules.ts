import { constant, type Dim, dimMul, ops, type Value, withScope } from "../../../graph/index.js";
import { tensor } from "../../../tensor/index.js";
import type { ParamOptions, Params } from "./params.js";

interface Options extends ParamOptions {
  /** Default true. */
  readonly bias?: boolean | undefined;
}

const biasOf = (params: Params, name: string, size: number, { bias = true, head }: Options) =>
  bias ? params(`${name}.bias`, [size], { init: "zeros", head }) : undefined;

/** The linear map at module path `name`: `[tokens, in]` to `[tokens, out]`. */
export function linearLayer(
  params: Params,
  name: string,
  x: Value,
  out: number,
  options: Options = {},
): Value {
  const weight = params(`${name}.weight`, [out, x.shape[1] as number], options);
  return withScope(name, () => ops.gemm(x, weight, biasOf(params, name, out, options), { transB: true }));
}

export interface ConvLayerOptions extends Options {
  readonly out: number;
  /** Height and width alike. */
  readonly kernel: number;
  /** Default 1. */
  readonly stride?: number | undefined;
  /** All around, or `[top, left, bottom, right]`. Default 0. */
  readonly padding?: number | readonly [number, number, number, number] | undefined;
  /** Default 1. */
  readonly dilation?: number | undefined;
  /** Default 1. */
  readonly groups?: number | undefined;
}

/** The convolution at module path `name` over `[N, C, H, W]`. */
export function convLayer(params: Params, name: string, x: Value, options: ConvLayerOptions): Value {
  const { out, kernel, stride = 1, padding = 0, dilation = 1, groups = 1 } = options;
  const channels = (x.shape[1] as number) / groups;
  const weight = params(`${name}.weight`, [out, channels, kernel, kernel], options);
  const pads = typeof padding === "number" ? [padding, padding, padding, padding] : padding;
  return withScope(name, () =>
    ops.conv(x, weight, biasOf(params, name, out, options), {
      strides: [stride, stride],
      pads,
      dilations: [dilation, dilation],
      group: groups,
    }),
  );
}

/** LayerNorm at module path `name` over the last axis. */
export function layerNormLayer(params: Params, name: string, x: Value, epsilon: number): Value {
  const width = x.shape.at(-1) as number;
  const scale = params(`${name}.weight`, [width], { init: "ones" });
  const shift = params(`${name}.bias`, [width], { init: "zeros" });
  return withScope(name, () => ops.layerNorm(x, scale, shift, epsilon));
}

export interface BatchNormOptions {
  /** Default 1e-5. */
  readonly epsilon?: number;
  /** PyTorch's: the share of a batch in the running statistics. Default 0.1. */
  readonly momentum?: number;
}

/**
 * Batch normalisation at module path `name` over axis 1, by its running statistics. It stays one node with named
 * tensors: passes over the graph turn it to the statistics of the batch.
 */
export function batchNormLayer(
  params: Params,
  name: string,
  x: Value,
  { epsilon = 1e-5, momentum = 0.1 }: BatchNormOptions = {},
): Value {
  const size = [x.shape[1] as number];
  const tensors = {
    scale: params(`${name}.weight`, size, { init: "ones" }),
    bias: params(`${name}.bias`, size, { init: "zeros" }),
    mean: params(`${name}.running_mean`, size, { init: "zeros" }),
    variance: params(`${name}.running_var`, size, { init: "ones" }),
  };
  return withScope(name, () => ops.batchNorm(x, tensors, { epsilon, momentum: 1 - momentum }));
}

/** GroupNorm at module path `name` over `[N, C, ...space]`. */
export function groupNormLayer(
  params: Params,
  name: string,
  x: Value,
  { groups, epsilon = 1e-5 }: { readonly groups: number; readonly epsilon?: number },
): Value {
  const channels = x.shape[1] as number;
  const scale = params(`${name}.weight`, [channels], { init: "ones" });
  const shift = params(`${name}.bias`, [channels], { init: "zeros" });
  const perChannel = [channels, ...x.shape.slice(2).map(() => 1)];
  return withScope(name, () => {
    const grouped = ops.reshape(x, [x.shape[0] as Dim, groups, -1], [x]);
    const filled = (value: number) => constant(tensor("float32", [groups], new Array(groups).fill(value)));
    const normal = ops.reshape(ops.instanceNorm(grouped, filled(1), filled(0), epsilon), x.shape, [x]);
    return ops.add(ops.mul(normal, ops.reshape(scale, perChannel)), ops.reshape(shift, perChannel));
  });
}

/** Rows of the table at module path `name` for int64 ids of any shape. */
export function embeddingLayer(
  params: Params,
  name: string,
  ids: Value,
  [rows, width]: readonly [number, number],
  options: ParamOptions = {},
): Value {
  const table = params(`${name}.weight`, [rows, width], options);
  return withScope(name, () => ops.gather(table, ids));
}

/** `[N, C, ...space]` to `[N, C]`: the mean over space. */
export const globalMean = (x: Value): Value =>
  ops.reshape(ops.globalAveragePool(x), [x.shape[0] as Dim, x.shape[1] as Dim], [x]);

/** Names of an attention's four linear maps, as full module paths. */
export interface AttentionNames {
  readonly query: string;
  readonly key: string;
  readonly value: string;
  readonly output: string;
}

/** `[batch, length, width]` as `[batch*length, width]`. */
export const flatTokens = (x: Value): Value => {
  const [batch, length, width] = x.shape as [Dim, Dim, number];
  return ops.reshape(x, [dimMul(batch, length), width], [x]);
};

/** `[N, C, H, W]` as `[N, H*W, C]`. */
export const spaceToTokens = (x: Value): Value => {
  const [batch, channels, height, width] = x.shape as [Dim, number, Dim, Dim];
  return ops.transpose(ops.reshape(x, [batch, channels, dimMul(height, width)], [x]), [0, 2, 1]);
};
