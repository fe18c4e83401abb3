/** A small language model with adapters, its loss and its gradients: what the backends must agree on. */
import { gradients } from "../../src/autodiff/index.js";
import { constant, type Graph, input, makeGraph, ops, type Value } from "../../src/graph/index.js";
import { type Tensor, tensor } from "../../src/tensor/index.js";
import { noise } from "./noise.js";

const [LENGTH, WIDTH, VOCABULARY, RANK] = [12, 64, 100, 4];

const weight = (seed: number, shape: number[], scale: number) => constant(noise(seed, shape, scale));

export interface GraphAndFeeds {
  readonly graph: Graph;
  readonly feeds: Readonly<Record<string, Tensor>>;
}

function attention(x: Value, seed: number, adapt: (x: Value, out: number) => Value): Value {
  const project = (at: number) =>
    ops.add(ops.matmul(x, weight(seed + at, [WIDTH, WIDTH], 0.15)), adapt(x, WIDTH));
  const scores = ops.mul(ops.matmul(project(0), ops.transposeLast(project(1))), 1 / Math.sqrt(WIDTH));
  const causal = ops.trilu(ops.full([LENGTH, LENGTH], 1, "float32"), false);
  const masked = ops.where(ops.greater(causal, 0), scores, -1e9);
  return ops.matmul(ops.softmax(masked), project(2));
}

/** Two blocks (layer norm, attention, GELU of both kinds, RMS norm), adapters on q, k, v, cross-entropy. */
export function trainingGraph(): GraphAndFeeds {
  const ids = input("ids", "int64", [LENGTH]);
  // As a column: Unsqueeze of int64 is one of the operators that WebGPU leaves to the CPU.
  const labels = input("labels", "int64", [LENGTH, 1]);
  const trained: Value[] = [];
  const feeds: Record<string, Tensor> = {
    ids: tensor(
      "int64",
      [LENGTH],
      Array.from({ length: LENGTH }, (_, i) => (i * 37 + 5) % VOCABULARY),
    ),
    labels: tensor(
      "int64",
      [LENGTH, 1],
      Array.from({ length: LENGTH }, (_, i) => (i * 53 + 11) % VOCABULARY),
    ),
  };
  const parameter = (shape: number[], scale: number): Value => {
    const name = `p${trained.length}`;
    feeds[name] = noise(1000 + trained.length, shape, scale);
    const value = input(name, "float32", shape);
    trained.push(value);
    return value;
  };
  const adapt = (x: Value, out: number) =>
    ops.matmul(ops.matmul(x, parameter([WIDTH, RANK], 0.2)), parameter([RANK, out], 0.2));
  let x = ops.gather(weight(1, [VOCABULARY, WIDTH], 1), ids);
  for (const block of [0, 1]) {
    const seed = 10 + block * 10;
    const gamma = parameter([WIDTH], 0.5);
    const normal =
      block === 0 ? ops.layerNorm(x, gamma, parameter([WIDTH], 0.1), 1e-5) : ops.rmsNorm(x, gamma, 1e-6);
    x = ops.add(x, attention(normal, seed, adapt));
    const up = ops.gemm(x, weight(seed + 5, [4 * WIDTH, WIDTH], 0.1), undefined, { transB: true });
    x = ops.add(
      x,
      ops.matmul(ops.gelu(up, block === 0 ? "none" : "tanh"), weight(seed + 6, [4 * WIDTH, WIDTH], 0.1)),
    );
  }
  const logits = ops.matmul(x, weight(2, [WIDTH, VOCABULARY], 0.2));
  const picked = ops.gatherElements(ops.logSoftmax(logits), labels, 1);
  const loss = ops.neg(ops.reduceMean(picked, undefined, false));
  const grads = gradients(loss, trained);
  const outputs: [string, Value][] = [
    ["loss", loss],
    ...grads.map((grad, at): [string, Value] => [`d${at}`, grad]),
  ];
  return { graph: makeGraph("training", [ids, labels, ...trained], outputs), feeds };
}

/** A run long enough to notice whether the page still answers: products of square matrices. */
export function slowGraph(size: number, count: number): GraphAndFeeds {
  const x = input("x", "float32", [size, size]);
  let y: Value = x;
  for (let i = 0; i < count; i++) y = ops.tanh(ops.matmul(y, x));
  return {
    graph: makeGraph("slow", [x], [["y", ops.reduceMean(y, undefined, false)]]),
    feeds: { x: noise(3, [size, size], 0.05) },
  };
}
