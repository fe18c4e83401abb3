import * as ort from "onnxruntime-node";
import { expect, test } from "vitest";
import { tensor } from "../../tensor/index.js";
import {
  constant,
  eliminateCommon,
  encodeGraph,
  extract,
  fold,
  type Graph,
  input,
  makeGraph,
  makeNode,
  nodesOf,
  op,
  ops,
  prune,
  specialise,
  type Value,
} from "../index.js";

const opsOf = (graph: Graph) => nodesOf(graph).map((node) => node.op);
const f32 = (shape: number[], values: number[]) => constant(tensor("float32", shape, values));

async function run(graph: Graph, feeds: Record<string, ort.Tensor>) {
  const session = await ort.InferenceSession.create(encodeGraph(graph), { logSeverityLevel: 3 });
  const results = await session.run(feeds);
  return Object.fromEntries(
    Object.entries(results).map(([name, value]) => [
      name,
      { dims: [...value.dims], data: Array.from(value.data as Float32Array, Number) },
    ]),
  );
}

/** x [batch, n, 4] to [batch, n*4] the way exporters write it. */
function exportedFlatten(x: Value): Value {
  const shape = op("Shape", [x]);
  const at = (axis: number) =>
    op("Unsqueeze", [op("Gather", [shape, ops.scalar(axis, "int64")]), ops.ints([0])]);
  const width = op("Mul", [at(1), at(2)]);
  return op("Reshape", [x, op("Concat", [at(0), width], { axis: { i: 0 } })]);
}

test("specialise binds dimensions and infers again", () => {
  const x = input("x", "float32", ["batch", "n", 4]);
  const graph = makeGraph("main", [x], [["y", exportedFlatten(x)]]);
  expect(graph.outputs.get("y")?.shape).toEqual(["batch", "n*4"]);
  const bound = specialise(graph, { n: 3 });
  expect(bound.inputs[0]?.shape).toEqual(["batch", 3, 4]);
  expect(bound.outputs.get("y")?.shape).toEqual(["batch", 12]);
  expect(() => specialise(graph, { m: 3 })).toThrow(/no dimension 'm'.*\n.*batch, n/);
  expect(() => specialise(graph, { n: -1 })).toThrow(/cannot have length -1/);
});

test("specialise reaches into sub-graphs", () => {
  const x = input("x", "float32", ["t", 2]);
  const state = input("state", "float32", [2]);
  const row = input("row", "float32", [2]);
  const body = {
    ...makeGraph(
      "body",
      [state, row],
      [
        ["s", ops.add(state, row)],
        ["o", ops.mul(row, 2)],
      ],
    ),
    captures: [],
  };
  const node = makeNode("Scan", [f32([2], [0, 0]), x], { body: { g: body }, num_scan_inputs: { i: 1 } });
  const graph = makeGraph("main", [x], [["y", node.outputs[1] as Value]]);
  expect(graph.outputs.get("y")?.shape).toEqual(["t", 2]);
  expect(specialise(graph, { t: 5 }).outputs.get("y")?.shape).toEqual([5, 2]);
});

test("fold removes the shape code of a specialised graph and keeps the result", async () => {
  const x = input("x", "float32", ["batch", "n", 4]);
  const graph = makeGraph("main", [x], [["y", exportedFlatten(x)]]);
  const folded = fold(specialise(graph, { batch: 2, n: 3 }));
  expect(opsOf(folded)).toEqual(["Reshape"]);
  const feeds = {
    x: new ort.Tensor(
      "float32",
      Float32Array.from({ length: 24 }, (_, i) => i),
      [2, 3, 4],
    ),
  };
  expect(await run(folded, feeds)).toEqual(await run(graph, feeds));
});

test("folded kernels give what ONNX Runtime gives", async () => {
  const a = f32([2, 3], [-1.5, 2.5, 0.25, 3, -4, 0.5]);
  const b = f32([3], [2, -3, 0.5]);
  const n = constant(tensor("int64", [4], [7, -7, 5, 2n ** 40n]));
  const m = constant(tensor("int64", [4], [2, 2, -3, 3]));
  const big = constant(tensor("int64", [2], [2n ** 63n - 1n, 1n]));
  const positive = op("Abs", [a]);
  const values: Record<string, Value> = {
    add: ops.add(a, b),
    div: ops.div(a, b),
    pow: ops.pow(positive, b),
    round: op("Round", [a]),
    floor: op("Floor", [a]),
    idiv: op("Div", [n, m]),
    mod: op("Mod", [n, m]),
    fmod: op("Mod", [n, m], { fmod: { i: 1 } }),
    less: ops.less(a, b),
    where: ops.where(ops.greater(a, b), a, b),
    transpose: ops.transpose(a, [1, 0]),
    gather: ops.gather(a, constant(tensor("int64", [2, 2], [0, -1, 2, 1])), 1),
    slice: ops.slice(a, 1, -1, -4, -1),
    concat: ops.concat([a, ops.unsqueeze(b, 0)], 0),
    split: ops.split(a, [1, 2], 1)[1] as Value,
    expand: ops.expand(b, [2, 2, 3]),
    tile: ops.tile(a, [2, 1]),
    cast: ops.cast(a, "int32"),
    toBool: ops.cast(a, "bool"),
    kept: ops.gather(big, ops.ints([0])),
    range: op("Range", [ops.scalar(1), ops.scalar(7), ops.scalar(2)]),
    filled: op("ConstantOfShape", [ops.ints([2, 2])], { value: { t: tensor("float32", [1], [3]) } }),
    min: op("Min", [a, b, ops.scalar(0.3)]),
    sqrt: ops.sqrt(positive),
    exp: ops.exp(a),
  };
  const graph = makeGraph("main", [], Object.entries(values));
  const folded = fold(graph);
  expect(opsOf(folded)).toEqual([]);
  const [expected, actual] = [await run(graph, {}), await run(folded, {})];
  for (const name of Object.keys(values)) {
    expect(actual[name]?.dims, name).toEqual(expected[name]?.dims);
    for (const [i, value] of (actual[name]?.data ?? []).entries()) {
      expect(value, name).toBeCloseTo(expected[name]?.data[i] as number, 5);
    }
  }
});

test("fold leaves large results and division by zero alone", () => {
  const wide = ops.expand(ops.scalar(1), [100, 100]);
  const bad = op("Div", [ops.ints([1]), ops.ints([0])]);
  expect(
    opsOf(
      fold(
        makeGraph(
          "main",
          [],
          [
            ["wide", wide],
            ["bad", bad],
          ],
        ),
      ),
    ),
  ).toEqual(["Expand", "Div"]);
});

test("eliminateCommon joins equal nodes and constants, not random ones", () => {
  const x = input("x", "float32", [2]);
  const one = () => f32([2], [1, 1]);
  const y = ops.mul(ops.exp(ops.add(x, one())), ops.exp(ops.add(x, one())));
  const noise = () => op("Bernoulli", [x]);
  const graph = eliminateCommon(makeGraph("main", [x], [["y", ops.add(y, ops.add(noise(), noise()))]]));
  expect(opsOf(graph).sort()).toEqual(["Add", "Add", "Add", "Bernoulli", "Bernoulli", "Exp", "Mul"]);
});

test("prune drops inputs that nothing reads", () => {
  const [x, unused] = [input("x", "float32", [2]), input("unused", "float32", [2])];
  expect(prune(makeGraph("main", [x, unused], [["y", ops.neg(x)]])).inputs).toEqual([x]);
});

test("extract cuts out a part that computes the same", async () => {
  const x = input("x", "float32", [2]);
  const scale = input("scale", "float32", [2]);
  const hidden = ops.relu(x);
  const graph = makeGraph("main", [x, scale], [["y", ops.mul(ops.exp(hidden), scale)]]);
  const part = extract(graph, { from: [hidden], to: graph.outputs });
  expect(part.inputs.map((value) => value.name)).toEqual([`value_${hidden.id}`, "scale"]);
  const feeds = {
    [`value_${hidden.id}`]: new ort.Tensor("float32", [0, 1], [2]),
    scale: new ort.Tensor("float32", [2, 2], [2]),
  };
  const result = await run(part, feeds);
  expect(result.y?.data[1]).toBeCloseTo(2 * Math.E, 5);
  expect(() => extract(graph, { from: [], to: new Map([["x", hidden]]) })).toThrow(/'x' would stand twice/);
});
