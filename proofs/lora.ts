import { gradients } from "../src/autodiff/index.js";
import { type Graph, input, makeGraph, ops, type Value } from "../src/graph/index.js";
import {
  callMethod,
  type LoraConfig,
  lora,
  loraMethod,
  type Method,
  type SiteShape,
} from "../src/methods/index.js";
import { createSession, evaluate, qr, rng, type Session } from "../src/runtime/index.js";
import { type Tensor, tensor } from "../src/tensor/index.js";
import { adamw, type Params } from "../src/training/index.js";
import type { Check, Proof } from "./proof.js";

const [ROWS, COLS] = [24, 32];
const SINGULAR = [4, 3, 2, 1];
const SITE: SiteShape = {
  path: "map",
  kind: "linear",
  inFeatures: COLS,
  outFeatures: ROWS,
  hasBias: false,
};

export interface LoraProofOptions {
  /** The implementation under test. */
  readonly method?: Method<LoraConfig>;
  /** Optimiser steps of the learning check. Default 1500. */
  readonly steps?: number;
  /** Repetitions of the first-step check. Default 40. */
  readonly seeds?: number;
}

/**
 * What LoRA and rsLoRA must do on a planted problem: a frozen random 24 x 32 map, and a target that differs from it by a
 * matrix with singular values 4, 3, 2, 1. The loss is the squared Frobenius distance, reached through the adapter's
 * forward pass alone.
 */
export function loraProof({ method = loraMethod, steps = 1500, seeds = 40 }: LoraProofOptions = {}): Proof {
  return {
    name: "lora",
    title: "LoRA finds the best update of its rank; rsLoRA's first step does not depend on the rank",
    papers: ["2106.09685", "2312.03732"],
    async run() {
      const checks: Check[] = [];
      for (const rank of [1, 2, 3, 4]) checks.push(await learning(method, rank, steps));
      for (const rank of [2, 8]) checks.push(...(await formula(method, rank)));
      for (const rslora of [false, true])
        for (const rank of [4, 64]) checks.push(await firstStep(method, rank, rslora, seeds));
      return checks;
    },
  };
}

const normals = (label: string, count: number, seed = 1) =>
  rng(seed, label).fillNormal(new Float32Array(count));

/** W0 and W0 + U diag(4, 3, 2, 1) Vᵀ. */
function planted(): { w0: Float32Array; target: Float32Array } {
  const rank = SINGULAR.length;
  const { q: u } = qr({ rows: ROWS, cols: rank, data: normals("u", ROWS * rank) });
  const { q: v } = qr({ rows: COLS, cols: rank, data: normals("v", COLS * rank) });
  const w0 = normals("w0", ROWS * COLS).map((value) => value / Math.sqrt(COLS));
  const target = w0.map((value, at) => {
    const [i, j] = [Math.floor(at / COLS), at % COLS];
    return SINGULAR.reduce(
      (sum, s, k) => sum + s * Number(u.data[i * u.cols + k]) * Number(v.data[j * v.cols + k]),
      value,
    );
  });
  return { w0, target };
}

interface Problem {
  readonly graph: Graph;
  readonly names: readonly string[];
  readonly shapes: Readonly<Record<string, readonly number[]>>;
}

/** Graph of ‖forward(I) − targetᵀ‖² and its gradients; also the merged weight, and the branch's output. */
function problem(method: Method<LoraConfig>, config: LoraConfig): Problem {
  const w0 = input("w0", "float32", [ROWS, COLS]);
  const target = input("target", "float32", [ROWS, COLS]);
  const x = input("x", "float32", [COLS, COLS]);
  const specs = Object.entries(method.tensors(SITE, config));
  const tensors = Object.fromEntries(
    specs.map(([name, spec]): [string, Value] => [name, input(name, "float32", spec.shape)]),
  );
  const y = callMethod(method, config, { site: SITE, tensors, x, weight: w0 });
  const loss = ops.reduceSum(ops.square(ops.sub(ops.transpose(y, [1, 0]), target)), undefined, false);
  const names = specs.map(([name]) => name);
  const grads = gradients(
    loss,
    names.map((name) => tensors[name] as Value),
  );
  const outputs: [string, Value][] = [
    ["loss", loss],
    ["branch", ops.transpose(y, [1, 0])],
    ["merged", method.weight(w0, tensors, SITE, config)],
    ...names.map((name, at): [string, Value] => [`grad/${name}`, grads[at] as Value]),
  ];
  return {
    graph: makeGraph("planted", [w0, target, x, ...Object.values(tensors)], outputs),
    names,
    shapes: Object.fromEntries(specs.map(([name, spec]) => [name, spec.shape])),
  };
}

const identity = Float32Array.from({ length: COLS * COLS }, (_, at) => (at % (COLS + 1) === 0 ? 1 : 0));

function feedsOf(parts: Problem, params: Params, w0: Float32Array, target: Float32Array) {
  const feeds: Record<string, Tensor> = {
    w0: tensor("float32", [ROWS, COLS], w0),
    target: tensor("float32", [ROWS, COLS], target),
    x: tensor("float32", [COLS, COLS], identity),
  };
  for (const [name, data] of params)
    feeds[name] = tensor("float32", parts.shapes[name] as readonly number[], data);
  return feeds;
}

/** Fresh A and B as the method starts them. */
async function start(method: Method<LoraConfig>, config: LoraConfig, seed: number): Promise<Params> {
  const params = new Map<string, Float32Array>();
  for (const [name, spec] of Object.entries(method.tensors(SITE, config))) {
    const random = rng(seed, "start", name);
    const data = await spec.init({
      site: SITE,
      normal: (count, std = 1) => random.fillNormal(new Float32Array(count), 0, std),
      uniform: (count, low, high) => random.fillUniform(new Float32Array(count), low, high),
      weight: async () => planted().w0,
      once: (_, compute) => compute(),
      seed,
      statistic: () => Promise.reject(new Error("not calibrated")),
    });
    params.set(name, data as Float32Array);
  }
  return params;
}

/** Final loss after training: the sum of the squares of the singular values that rank r must drop (Eckart-Young). */
async function learning(method: Method<LoraConfig>, rank: number, steps: number): Promise<Check> {
  const { config } = lora({ rank, alpha: 8 });
  const parts = problem(method, config);
  const { w0, target } = planted();
  const params = await start(method, config, 1);
  const optimizer = adamw({ lr: 1e-2, weightDecay: 0 });
  const state = optimizer.init(params);
  const session: Session = await createSession(parts.graph, { threads: 1 });
  const fetches = ["loss", ...parts.names.map((name) => `grad/${name}`)];
  try {
    for (let step = 1; step <= steps; step++) {
      const results = await session.run(feedsOf(parts, params, w0, target), fetches);
      const grads = new Map(parts.names.map((name) => [name, results[`grad/${name}`]?.data as Float32Array]));
      optimizer.step(params, grads, state, { step });
    }
    const { loss } = await session.run(feedsOf(parts, params, w0, target), ["loss"]);
    const floor = SINGULAR.slice(rank).reduce((sum, s) => sum + s * s, 0);
    return {
      what: `loss after ${steps} steps, rank ${rank}`,
      measured: Number(loss?.data[0]),
      expected: floor,
      tolerance: 1e-3,
    };
  } finally {
    await session.release();
  }
}

/** Distance of branch and merged weight from W0 + (alpha / r) B A in plain arithmetic. */
async function formula(method: Method<LoraConfig>, rank: number): Promise<Check[]> {
  const { config } = lora({ rank, alpha: 3 });
  const parts = problem(method, config);
  const { w0, target } = planted();
  const a = normals("a", rank * COLS, rank);
  const b = normals("b", ROWS * rank, rank);
  const params = new Map([
    ["lora_A", a],
    ["lora_B", b],
  ]);
  const results = await evaluate(parts.graph, feedsOf(parts, params, w0, target));
  const expected = w0.map((value, at) => {
    const [i, j] = [Math.floor(at / COLS), at % COLS];
    let sum = 0;
    for (let k = 0; k < rank; k++) sum += Number(b[i * rank + k]) * Number(a[k * COLS + j]);
    return value + (3 / rank) * sum;
  });
  const gap = (name: string) => {
    const values = results[name]?.data as Float32Array;
    return values.reduce((most, value, at) => Math.max(most, Math.abs(value - Number(expected[at]))), 0);
  };
  return ["branch", "merged"].map((name) => ({
    what: `${name} against W0 + (alpha/r) B A, rank ${rank}`,
    measured: gap(name),
    expected: 0,
    tolerance: 1e-4,
  }));
}

/** <−dW, G> / (lr |G|²) of the first SGD step: s² r / (3 in), as A is uniform within ±1/sqrt(in) and B zero. */
async function firstStep(
  method: Method<LoraConfig>,
  rank: number,
  rslora: boolean,
  seeds: number,
): Promise<Check> {
  const { config } = lora({ rank, alpha: 8, rslora });
  const parts = problem(method, config);
  const { w0, target } = planted();
  const lr = 1e-4;
  const gradient = w0.map((value, at) => 2 * (value - Number(target[at])));
  const square = gradient.reduce((sum, value) => sum + value * value, 0);
  const session = await createSession(parts.graph, { threads: 1 });
  let total = 0;
  try {
    for (let seed = 1; seed <= seeds; seed++) {
      const params = await start(method, config, seed);
      const before = await session.run(feedsOf(parts, params, w0, target));
      for (const [name, data] of params) {
        const grad = before[`grad/${name}`]?.data as Float32Array;
        for (let at = 0; at < data.length; at++) data[at] = Number(data[at]) - lr * Number(grad[at]);
      }
      const after = await session.run(feedsOf(parts, params, w0, target), ["branch"]);
      const [from, to] = [before.branch?.data as Float32Array, after.branch?.data as Float32Array];
      total +=
        gradient.reduce((sum, g, at) => sum - (Number(to[at]) - Number(from[at])) * g, 0) / (lr * square);
    }
  } finally {
    await session.release();
  }
  const scale = rslora ? 8 / Math.sqrt(rank) : 8 / rank;
  return {
    what: `progress of the first step, ${rslora ? "rsLoRA" : "LoRA"} rank ${rank}`,
    measured: total / seeds,
    expected: (scale * scale * rank) / (3 * COLS),
    tolerance: 0.15,
    relative: true,
  };
}
