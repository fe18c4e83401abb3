import type { InitContext, SiteShape, TensorSpec } from "../method.js";

/** The part of the configuration that gives tensors their shapes. */
export interface SmoreShape {
  readonly experts: readonly number[];
  readonly active?: readonly number[] | undefined;
  readonly ranks: readonly number[];
  readonly gate: "switch" | "dense" | "noisy";
  readonly gateDim: number;
  readonly downDim: number;
  readonly activation: "tanh" | "relu" | "prelu" | "identity";
  readonly activationAt: "all" | "child" | "child_v2";
  readonly sharedPool: boolean;
  readonly init: "w_final_zero" | "eq_1_layer";
}

/** Children of each node, per sub-layer. */
export const activeOf = ({ active, experts, gate }: Pick<SmoreShape, "active" | "experts" | "gate">) =>
  active ?? experts.map((count) => (gate === "dense" ? count : Math.min(2, count)));

/** Widths d_0 = 0, d_1, ... d_L of the vectors between sub-layers. */
export function widthsOf({
  experts,
  ranks,
  sharedPool,
}: Pick<SmoreShape, "experts" | "ranks" | "sharedPool">): number[] {
  const widths = [0];
  for (const [layer, count] of experts.entries())
    widths.push((sharedPool ? 0 : Number(widths[layer])) + count * Number(ranks[layer]));
  return widths;
}

type Fill = (context: InitContext, count: number) => Float32Array;

const trained = (shape: readonly number[], fill: Fill): TensorSpec => {
  const count = shape.reduce((a, b) => a * b, 1);
  return { shape, trainable: true, init: (context) => fill(context, count) };
};

/** Of an expert or a gate: of queries whose units no token wakes, and behind a settled softmax, gradients are exactly zero. */
const routed = (shape: readonly number[], fill: Fill): TensorSpec => ({
  ...trained(shape, fill),
  routed: true,
});

const zeros: Fill = (_, count) => new Float32Array(count);
/** PyTorch's start of linear layers: uniform within 1 / √fan-in. */
const kaiming =
  (fanIn: number): Fill =>
  ({ uniform }, count) =>
    uniform(count, -1 / Math.sqrt(fanIn), 1 / Math.sqrt(fanIn));

/** Expert i writes to rows i·r to (i + 1)·r of `[experts, width, rank]`. */
const slots =
  (experts: number, width: number, rank: number): Fill =>
  (_, count) => {
    const data = new Float32Array(count);
    for (let i = 0; i < experts; i++)
      for (let j = 0; j < rank; j++) data[(i * width + i * rank + j) * rank + j] = 1;
    return data;
  };

/** The identity as the last rows of `[rows, columns]`. */
const lastRows =
  (rows: number, columns: number): Fill =>
  (_, count) => {
    const data = new Float32Array(count);
    for (let j = 0; j < columns; j++) data[(rows - columns + j) * columns + j] = 1;
    return data;
  };

function expertTensors(site: SiteShape, config: SmoreShape, layer: number): Record<string, TensorSpec> {
  const [experts, rank] = [Number(config.experts[layer]), Number(config.ranks[layer])];
  const width = Number(widthsOf(config)[layer + 1]);
  const inputs = site.inFeatures;
  return {
    [`smore_A_${layer}`]: routed([experts, rank, inputs], kaiming(inputs)),
    [`smore_A_bias_${layer}`]: routed([experts, rank], zeros),
    [`smore_B_${layer}`]: routed(
      [experts, width, rank],
      config.init === "eq_1_layer" ? slots(experts, width, rank) : kaiming(rank),
    ),
    [`smore_B_bias_${layer}`]: routed([experts, width], zeros),
  };
}

/** What carries a child's vector to its parent. */
function carryTensors(config: SmoreShape, layer: number): Record<string, TensorSpec> {
  const [from, to] = widthsOf(config).slice(layer, layer + 2) as [number, number];
  return {
    [`smore_W_${layer}`]: trained(
      [to, from],
      config.init === "eq_1_layer" ? lastRows(to, from) : kaiming(from),
    ),
    [`smore_W_bias_${layer}`]: trained([to], zeros),
  };
}

function gateTensors(
  { experts, gate, gateDim, downDim }: SmoreShape,
  layer: number,
): Record<string, TensorSpec> {
  const inputs = downDim + gateDim * (experts.length - 1 - layer);
  const count = Number(experts[layer]);
  const name = (part: string) => `smore_gate_${part}_${layer}`;
  return {
    [name("in")]: routed([gateDim, inputs], kaiming(inputs)),
    [name("in_bias")]: routed([gateDim], kaiming(inputs)),
    [name("out")]: routed([gateDim, gateDim], kaiming(gateDim)),
    [name("out_bias")]: routed([gateDim], kaiming(gateDim)),
    [name("keys")]: routed([count, gateDim], ({ uniform }, size) => uniform(size, 0, 1)),
    ...(gate === "noisy" ? { [name("noise")]: routed([count, inputs], zeros) } : {}),
  };
}

/** Trained tensors of one map. */
export function smoreTensors(site: SiteShape, config: SmoreShape): Record<string, TensorSpec> {
  const { downDim, experts } = config;
  const top = Number(widthsOf(config).at(-1));
  const tensors: Record<string, TensorSpec> = {
    smore_proj: trained([site.outFeatures, top], zeros),
    smore_proj_bias: trained([site.outFeatures], zeros),
    smore_down: routed([downDim, site.inFeatures], kaiming(site.inFeatures)),
    smore_down_bias: routed([downDim], kaiming(site.inFeatures)),
  };
  for (const layer of experts.keys()) {
    if (layer === 0 || !config.sharedPool) Object.assign(tensors, expertTensors(site, config, layer));
    if (layer > 0) Object.assign(tensors, carryTensors(config, layer));
    Object.assign(tensors, gateTensors(config, layer));
    // On children only, the activation meets no leaf.
    if (config.activation === "prelu" && (layer > 0 || config.activationAt === "all"))
      tensors[`smore_slope_${layer}`] = trained([1], (_, size) => new Float32Array(size).fill(0.25));
  }
  return tensors;
}
