import type { SmoreConfig } from "../src/methods/index.js";

/** Numbers of a map's tensors by name, without their prefix: `A_0`, `gate_in_bias_1`. */
export type Numbers = (name: string) => ArrayLike<number>;

/** An expert that was chosen, what it counts, and what was chosen below it. */
export interface Branch {
  readonly expert: number;
  readonly score: number;
  readonly below: readonly Branch[];
}

/** rows · x + bias of a row-major matrix, of rows from `first` on. */
function affine(
  matrix: ArrayLike<number>,
  x: readonly number[],
  bias: ArrayLike<number>,
  [count, first]: readonly [number, number],
): number[] {
  return Array.from({ length: count }, (_, row) =>
    x.reduce(
      (sum, value, at) => sum + Number(matrix[(first + row) * x.length + at]) * value,
      Number(bias[first + row] ?? 0),
    ),
  );
}

const softmax = (values: readonly number[]): number[] => {
  const most = Math.max(...values);
  const powers = values.map((value) => Math.exp(value - most));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((value) => value / sum);
};

const unit = (values: readonly number[]): number[] => {
  const length = Math.hypot(...values);
  return values.map((value) => value / length);
};

const activation = (kind: SmoreConfig["activation"], slope: number) => (value: number) =>
  ({
    tanh: Math.tanh(value),
    relu: Math.max(0, value),
    prelu: value < 0 ? slope * value : value,
    identity: value,
  })[kind];

/** The tree that a token chooses: every node asks for itself. */
export function chosenTree(config: SmoreConfig, numbers: Numbers, x: readonly number[]): Branch[] {
  const token = affine(numbers("down"), x, numbers("down_bias"), [config.downDim, 0]);
  return choose(config, numbers, token, config.experts.length - 1);
}

/** Logits over the experts, and their keys as children see them. */
function asked(config: SmoreConfig, numbers: Numbers, known: readonly number[], layer: number) {
  const { gateDim: width, gate } = config;
  const get = (part: string) => numbers(`gate_${part}_${layer}`);
  const hidden = affine(get("in"), known, get("in_bias"), [width, 0]).map((value) => Math.max(0, value));
  const plain = affine(get("out"), hidden, get("out_bias"), [width, 0]);
  const stored = Array.from({ length: Number(config.experts[layer]) }, (_, i) =>
    Array.from({ length: width }, (_, j) => Number(get("keys")[i * width + j])),
  );
  const [query, keys] = gate === "noisy" ? [unit(plain), stored.map(unit)] : [plain, stored];
  return {
    keys,
    logits: keys.map((key) => key.reduce((sum, value, j) => sum + value * Number(query[j]), 0)),
  };
}

/** Experts and their scores. */
function taken({ gate, active, experts }: SmoreConfig, logits: readonly number[], layer: number) {
  const p = gate === "noisy" ? [...logits] : softmax(logits);
  if (gate === "dense") return p.map((score, expert) => ({ expert, score }));
  const count = active?.[layer] ?? Math.min(2, Number(experts[layer]));
  const order = [...p.keys()].sort((a, b) => Number(p[b]) - Number(p[a]) || a - b).slice(0, count);
  const kept = order.map((expert) => Number(p[expert]));
  const sum = kept.reduce((a, b) => a + b, 0);
  const shares = gate === "noisy" ? softmax(kept) : kept.map((value) => value / sum);
  return order.map((expert, at) => ({ expert, score: Number((count > 1 ? shares : kept)[at]) }));
}

function choose(config: SmoreConfig, numbers: Numbers, known: readonly number[], layer: number): Branch[] {
  const { keys, logits } = asked(config, numbers, known, layer);
  return taken(config, logits, layer).map(({ expert, score }) => ({
    expert,
    score,
    below: layer > 0 ? choose(config, numbers, [...known, ...(keys[expert] as number[])], layer - 1) : [],
  }));
}

/** The vector of a node `[d]`, from the branches below it: each path by itself. */
export function grown(
  config: SmoreConfig,
  numbers: Numbers,
  x: readonly number[],
  branches: readonly Branch[],
  layer = config.experts.length - 1,
): number[] {
  const { activationAt, ranks, alphas, sharedPool } = config;
  const pool = sharedPool ? 0 : layer;
  const rank = Number(ranks[layer]);
  const act = activation(config.activation, Number(numbers(`slope_${layer}`)[0]));
  const width = numbers(`B_bias_${pool}`).length / Number(config.experts[pool]);
  const sum = new Array<number>(width).fill(0);
  for (const { expert, score, below } of branches) {
    const code = affine(numbers(`A_${pool}`), x, numbers(`A_bias_${pool}`), [rank, expert * rank]);
    const scale = (alphas?.[layer] ?? rank) / rank;
    const e = affine(numbers(`B_${pool}`), code, numbers(`B_bias_${pool}`), [width, expert * width]).map(
      (value) => scale * value,
    );
    const child = layer > 0 ? grown(config, numbers, x, below, layer - 1) : undefined;
    const seen = activationAt === "all" ? child : child?.map(act);
    const carried = seen && affine(numbers(`W_${layer}`), seen, numbers(`W_bias_${layer}`), [width, 0]);
    for (const [at, own] of e.entries()) {
      const from = Number(carried?.[at] ?? 0);
      const term = {
        all: score * act(own + from),
        child: score * own + from,
        child_v2: score * (own + from),
      };
      sum[at] = Number(sum[at]) + term[activationAt];
    }
  }
  return sum;
}

/** What the tree adds to the map's output. */
export function update(
  config: SmoreConfig,
  numbers: Numbers,
  x: readonly number[],
  tree: readonly Branch[],
): number[] {
  const bias = numbers("proj_bias");
  return affine(numbers("proj"), grown(config, numbers, x, tree), bias, [bias.length, 0]);
}
