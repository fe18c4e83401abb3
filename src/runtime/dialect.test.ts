import { describe, expect, test } from "vitest";
import {
  constant,
  type Graph,
  input,
  makeGraph,
  makeNode,
  nodesOf,
  op,
  ops,
  type Value,
} from "../graph/index.js";
import { maxAbsDiff, type Tensor, tensor } from "../tensor/index.js";
import { evaluate, forBackend } from "./index.js";
import { expansions, substitutes } from "./substitutes.js";

const X = tensor(
  "float32",
  [2, 3, 4],
  Array.from({ length: 24 }, (_, i) => Math.sin(i * 1.7) * 3 + (i % 5 === 0 ? 0.5 : 0)),
);
const halves = tensor("float32", [9], [-2.5, -1.5, -0.5, 0, 0.5, 1.5, 2.5, 3.49, -3.51]);
const i = (value: number) => ({ i: value });
const f = (value: number) => ({ f: value });
const vector = (values: number[]) => tensor("float32", [values.length], values);
const grid = (shape: number[], scale = 1) => {
  const length = shape.reduce((a, b) => a * b, 1);
  return tensor(
    "float32",
    shape,
    Array.from({ length }, (_, k) => Math.cos(k * 2.3) * scale),
  );
};
const int32 = (values: number[]) => tensor("int32", [values.length], values);
/** Around zero, at multiples of pi/2, and as large as positions of a long row. */
const angles = vector([
  ...Array.from({ length: 101 }, (_, k) => (k - 50) * 0.37),
  ...Array.from({ length: 9 }, (_, k) => ((k - 4) * Math.PI) / 2),
  ...[255, 1023.5, -4096, 32_767, 65_535.25, 99_991],
]);

interface Case {
  readonly op: string;
  readonly feeds: readonly Tensor[];
  readonly attrs?: Parameters<typeof op>[2];
  readonly outputs?: number;
  readonly domain?: string;
  /** Further inputs known when the graph is built. */
  readonly fixed?: readonly (Tensor | undefined)[];
  readonly note?: string;
}

const cases: readonly Case[] = [
  { op: "LogSoftmax", feeds: [X], attrs: { axis: i(1) } },
  { op: "Sin", feeds: [angles] },
  { op: "Cos", feeds: [angles] },
  { op: "Sign", feeds: [halves] },
  { op: "Round", feeds: [halves] },
  { op: "Selu", feeds: [X] },
  { op: "Celu", feeds: [X], attrs: { alpha: f(0.7) } },
  { op: "Softsign", feeds: [X] },
  { op: "Hardmax", feeds: [X], attrs: { axis: i(1) } },
  { op: "Mod", feeds: [int32([7, -7, 7, -7, 6]), int32([3, 3, -3, -3, 3])], note: "sign of the divisor" },
  {
    op: "Mod",
    feeds: [int32([7, -7, 7, -7, 6]), int32([3, 3, -3, -3, 3])],
    attrs: { fmod: i(1) },
    note: "fmod int",
  },
  {
    op: "Mod",
    feeds: [vector([5.3, -5.3, 0.3, 7, -9]), vector([2, 2, 0.1, 3.5, 3])],
    attrs: { fmod: i(1) },
    note: "fmod",
  },
  { op: "Sum", feeds: [X, grid([3, 4]), grid([1])] },
  { op: "Mean", feeds: [X, grid([3, 4]), grid([1])] },
  {
    op: "ConstantOfShape",
    feeds: [],
    fixed: [tensor("int64", [2], [2, 3])],
    attrs: { value: { t: vector([2.5]) } },
  },
  { op: "ConstantOfShape", feeds: [], fixed: [tensor("int64", [2], [2, 3])], note: "default" },
  {
    op: "OneHot",
    feeds: [tensor("int64", [2, 2], [0, 3, -1, 2])],
    fixed: [tensor("int64", [], [4]), vector([-1, 5])],
    attrs: { axis: i(1) },
  },
  {
    op: "OneHot",
    feeds: [tensor("int64", [2], [1, 2])],
    fixed: [tensor("int64", [1], [3]), vector([0, 1])],
    note: "last axis",
  },
  { op: "Range", feeds: [], fixed: [10, 2, -3].map((n) => tensor("int64", [], [n])) },
  { op: "Size", feeds: [X] },
  { op: "MatMul", feeds: [grid([2, 0]), grid([0, 3])], note: "empty inner axis" },
  { op: "Dropout", feeds: [X] },
  {
    op: "MaxPool",
    feeds: [grid([2, 3, 7, 6], 4)],
    outputs: 2,
    attrs: { kernel_shape: { ints: [3, 2] }, strides: { ints: [2, 1] }, pads: { ints: [1, 0, 1, 1] } },
  },
  {
    op: "MaxPool",
    feeds: [grid([1, 2, 9], 4)],
    outputs: 2,
    attrs: { kernel_shape: { ints: [2] }, dilations: { ints: [3] } },
    note: "1-D",
  },
  {
    op: "SkipLayerNormalization",
    domain: "com.microsoft",
    outputs: 4,
    feeds: [X, grid([2, 3, 4]), grid([4]), grid([4]), grid([4], 2)],
  },
  {
    op: "SkipSimplifiedLayerNormalization",
    domain: "com.microsoft",
    outputs: 4,
    feeds: [X, grid([2, 3, 4]), grid([4]), grid([4], 2)],
  },
  {
    op: "BatchNormalization",
    feeds: [grid([3, 2, 4]), grid([2]), grid([2]), grid([2]), vector([1, 2])],
    outputs: 3,
    attrs: { training_mode: i(1) },
  },
  {
    op: "Resize",
    feeds: [grid([1, 2, 8, 8])],
    fixed: [undefined, undefined, tensor("int64", [4], [1, 2, 4, 4])],
    attrs: { mode: { s: "linear" }, antialias: i(1) },
  },
  {
    op: "FusedMatMul",
    domain: "com.microsoft",
    feeds: [grid([2, 4, 3]), grid([2, 5, 4])],
    attrs: { transA: i(1), transB: i(1), alpha: f(0.5) },
  },
  { op: "GroupNormalization", feeds: [grid([2, 4, 5]), grid([4]), grid([4])], attrs: { num_groups: i(2) } },
  { op: "GridSample", feeds: [grid([1, 2, 4, 5]), grid([1, 3, 3, 2])], attrs: { mode: { s: "linear" } } },
  { op: "LpPool", feeds: [grid([1, 2, 6])], attrs: { kernel_shape: { ints: [2] } } },
  { op: "SpaceToDepth", feeds: [grid([1, 2, 4, 6])], attrs: { blocksize: i(2) } },
  { op: "MeanVarianceNormalization", feeds: [grid([2, 3, 4, 5])] },
  {
    op: "RNN",
    feeds: [grid([3, 2, 4]), grid([1, 5, 4]), grid([1, 5, 5])],
    outputs: 2,
    attrs: { hidden_size: i(5) },
  },
  {
    op: "SoftmaxCrossEntropyLoss",
    feeds: [grid([4, 3], 3), tensor("int64", [4], [0, 2, 1, -1])],
    attrs: { ignore_index: i(-1) },
  },
  { op: "NegativeLogLikelihoodLoss", feeds: [grid([4, 3], 3), tensor("int64", [4], [0, 2, 1, 2])] },
];

function graphOf(item: Case): { graph: Graph; feeds: Record<string, Tensor> } {
  const inputs = item.feeds.map((feed, at) => input(`x${at}`, feed.dtype, feed.shape));
  const fixed = (item.fixed ?? []).map((data) => data && constant(data));
  const node = makeNode(item.op, [...inputs, ...fixed], item.attrs, {
    domain: item.domain ?? "",
    outputs: item.outputs,
  });
  // Statistics that nobody asked for may be empty: compare those that the kernel fills.
  const skipped = item.op === "SkipSimplifiedLayerNormalization" ? [1] : [];
  const outputs = node.outputs.flatMap((value, at): [string, Value][] =>
    skipped.includes(at) ? [] : [[`y${at}`, value]],
  );
  return {
    graph: makeGraph(item.op, inputs, outputs),
    feeds: Object.fromEntries(item.feeds.map((feed, at) => [`x${at}`, feed])),
  };
}

describe("substitutes for WebGPU", () => {
  test.each(cases.map((item) => ({ ...item, title: `${item.op}${item.note ? ` (${item.note})` : ""}` })))(
    "$title equals the operator",
    async (item) => {
      const { graph, feeds } = graphOf(item);
      const rewritten = forBackend(graph, "webgpu");
      const left = nodesOf(rewritten).map((node) => `${node.op}/${node.outputs.length}`);
      expect(left).not.toContain(`${item.op}/${item.outputs ?? 1}`);
      const [expected, actual] = [await evaluate(graph, feeds), await evaluate(rewritten, feeds)];
      for (const [name, value] of Object.entries(expected)) {
        const got = actual[name] as Tensor;
        expect([got.dtype, got.shape], name).toEqual([value.dtype, value.shape]);
        const scale = Math.max(
          1,
          ...Array.from(value.data as ArrayLike<number | bigint>, (x) => Math.abs(Number(x))),
        );
        if (value.data.length > 0) expect(maxAbsDiff(got, value) / scale, name).toBeLessThan(2e-6);
      }
    },
  );

  test("every substitute is covered above", () => {
    const covered = new Set(cases.map((item) => (item.domain ? `${item.domain}.${item.op}` : item.op)));
    expect([...substitutes.keys(), ...expansions.keys()].filter((key) => !covered.has(key))).toEqual([]);
  });

  test("CPU and WASM graphs stay as they are", () => {
    const { graph } = graphOf(cases[0] as Case);
    expect(forBackend(graph, "cpu")).toBe(graph);
    expect(forBackend(graph, "wasm")).toBe(graph);
  });

  test("uses that would silently be wrong are refused", () => {
    const x = input("x", "float32", [2, 3]);
    const training = op("Dropout", [x, ops.scalar(0.5), constant(tensor("bool", [], [1]))]);
    expect(() => forBackend(makeGraph("g", [x], [["y", training]]), "webgpu")).toThrow(
      /random masks are not portable/,
    );
  });
});
