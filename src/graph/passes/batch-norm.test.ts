import { expect, test } from "vitest";
import { gradients } from "../../autodiff/index.js";
import { checkGradients } from "../../autodiff/testing/finite-differences.js";
import { createSession, evaluate } from "../../runtime/index.js";
import { tensor } from "../../tensor/index.js";
import {
  batchNormMode,
  constant,
  type Graph,
  input,
  makeGraph,
  makeNode,
  nodesOf,
  ops,
  scope,
  type Value,
} from "../index.js";

const vector = (name: string, ...values: number[]) =>
  constant(tensor("float32", [values.length], values), name);
const DATA = [1, 2, 3, 4, 5, 7, -1, 0, 2, 2, 2, 8];

/** Two normalisations of `[2, 2, 3]`, the second one named by its module only. */
function model(training = 0): Graph {
  const x = input("x", "float32", [2, 2, 3]);
  const norm = (value: Value, names: string[]) =>
    makeNode(
      "BatchNormalization",
      [
        value,
        vector("scale", 1, 2),
        vector("bias", 0, 1),
        vector(names[0] as string, 0.5, 1),
        vector(names[1] as string, 1, 4),
      ],
      { epsilon: { f: 1e-5 }, momentum: { f: 0.75 }, training_mode: { i: training } },
      { outputs: training ? 3 : 1 },
    ).outputs[0] as Value;
  const first = scope("norm1", () => norm(x, ["norm1.running_mean", "norm1.running_var"]));
  const second = scope("norm2", () => norm(ops.relu(first), ["", ""]));
  return makeGraph("g", [x], [["y", second]]);
}

const channel = (at: number) => [0, 1].flatMap((n) => DATA.slice(n * 6 + at * 3, n * 6 + at * 3 + 3));
const mean = (values: number[]) => values.reduce((a, b) => a + b, 0) / values.length;
const variance = (values: number[]) => mean(values.map((value) => (value - mean(values)) ** 2));
const feeds = { x: tensor("float32", [2, 2, 3], DATA) };
const close = (values: number[]) => values.map((value) => expect.closeTo(value, 4));

test("train: batch statistics, and the running ones as outputs", async () => {
  const { graph, statistics } = batchNormMode(model(), "train");
  expect(nodesOf(graph).some((node) => node.op === "BatchNormalization")).toBe(false);
  expect(statistics.map(({ scope: path, nextMean, nextVariance }) => [path, nextMean, nextVariance])).toEqual(
    [
      ["norm1", "norm1.running_mean.next", "norm1.running_var.next"],
      ["norm2", "norm2.running_mean.next", "norm2.running_var.next"],
    ],
  );
  const results = await evaluate(graph, feeds);
  const next = (old: number[], batch: number[]) =>
    close(old.map((value, at) => value * 0.75 + (batch[at] as number) * 0.25));
  expect(Array.from(results["norm1.running_mean.next"]?.data as Float32Array)).toEqual(
    next(
      [0.5, 1],
      [0, 1].map((at) => mean(channel(at))),
    ),
  );
  expect(Array.from(results["norm1.running_var.next"]?.data as Float32Array)).toEqual(
    next(
      [1, 4],
      [0, 1].map((at) => variance(channel(at))),
    ),
  );
  const fast = await evaluate(batchNormMode(model(), "train", { momentum: 0 }).graph, feeds);
  expect(fast["norm1.running_mean.next"]?.data[0]).toBeCloseTo(mean(channel(0)), 4);
});

test("train equals the runtime's own training mode", async () => {
  const own = await evaluate(model(1), feeds);
  const laid = await evaluate(batchNormMode(model(), "train").graph, feeds);
  expect(Array.from(laid.y?.data as Float32Array)).toEqual(close(Array.from(own.y?.data as Float32Array)));
});

test("adapt: the batch's statistics, nothing kept; eval: those of the file, in training files too", async () => {
  const adapted = batchNormMode(model(), "adapt");
  expect([...adapted.graph.outputs.keys()]).toEqual(["y"]);
  expect(adapted.statistics).toEqual([]);
  const [a, b] = [
    await evaluate(adapted.graph, feeds),
    await evaluate(batchNormMode(model(), "train").graph, feeds),
  ];
  expect(a.y).toEqual(b.y);
  const frozen = await evaluate(batchNormMode(model(1), "eval").graph, feeds);
  expect(frozen.y).toEqual((await evaluate(model(), feeds)).y);
  expect(frozen.y).not.toEqual(a.y);
});

test("only the chosen ones", () => {
  const { graph, statistics } = batchNormMode(model(), "train", { which: (node) => node.scope === "norm2" });
  expect(statistics.map(({ scope: path }) => path)).toEqual(["norm2"]);
  expect(nodesOf(graph).filter((node) => node.op === "BatchNormalization").length).toBe(1);
});

test.each(["train", "adapt", "eval"] as const)("%s is differentiable", async (mode) => {
  await checkGradients((graph) => createSession(graph, { threads: 1, optimization: "basic" }), {
    operands: [{ shape: [2, 2, 3] }, { shape: [2] }, { shape: [2] }],
    build: (...values) => {
      const [x, scale, bias] = values as [Value, Value, Value];
      const fixed = (a: number, b: number) => constant(tensor("float64", [2], [a, b]));
      const node = makeNode("BatchNormalization", [x, scale, bias, fixed(0, 1), fixed(1, 2)], {
        epsilon: { f: 0.01 },
      });
      const graph = makeGraph("g", [x, scale, bias], [["y", node.outputs[0] as Value]]);
      return batchNormMode(graph, mode).graph.outputs.get("y") as Value;
    },
    lower: ["BatchNormalization"],
  });
});

test("gradients reach what is normalised by the batch", () => {
  const { graph } = batchNormMode(model(), "train");
  const loss = ops.reduceSum(ops.square(graph.outputs.get("y") as Value), undefined, false);
  expect(gradients(loss, [...graph.inputs])[0]?.shape).toEqual([2, 2, 3]);
});

test("an impossible momentum is refused", () => {
  expect(() => batchNormMode(model(), "train", { momentum: 1.5 })).toThrow(/momentum 1.5/);
});
