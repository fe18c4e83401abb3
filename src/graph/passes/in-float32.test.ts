import { expect, test } from "vitest";
import { gradients } from "../../autodiff/index.js";
import { evaluate } from "../../runtime/index.js";
import { float16ToFloat32, float32ToBfloat16, type Tensor, tensor } from "../../tensor/index.js";
import {
  type Attrs,
  constant,
  constantsOf,
  type Graph,
  inFloat32,
  input,
  makeGraph,
  nodesOf,
  op,
  ops,
  type Value,
  widenWeights,
} from "../index.js";

const half = (shape: number[], values: number[]) => constant(tensor("float16", shape, values), "w");
const numbers = (data: Tensor | undefined): number[] =>
  Array.from(
    data?.dtype === "float16" ? float16ToFloat32(data.data as Uint16Array) : (data?.data as Float32Array),
  );
const dtypesIn = (graph: Graph) =>
  new Set(nodesOf(graph).flatMap((node) => node.outputs.map((value) => value.dtype)));

function model(): { graph: Graph; x: Value; weight: Value } {
  const x = input("x", "float16", [2, 8]);
  const weight = half(
    [8, 16],
    Array.from({ length: 128 }, (_, at) => Math.sin(at) / 3),
  );
  const hidden = op("Relu", [ops.matmul(x, weight)]);
  const masked = ops.where(ops.greater(hidden, 0.1), hidden, -65504);
  const fill = op("ConstantOfShape", [ops.shapeOf(hidden)], { value: { t: tensor("float16", [1], [0.5]) } });
  const wide = ops.cast(ops.cast(masked, "float32"), "float16");
  const y = op("Softmax", [ops.add(ops.add(wide, fill), op("CastLike", [ops.scalar(1), x]))]);
  return {
    graph: makeGraph(
      "g",
      [x],
      [
        ["y", y],
        ["hidden", hidden],
      ],
    ),
    x,
    weight,
  };
}
const feed = Array.from({ length: 16 }, (_, at) => Math.cos(at));

test("computes in float32, keeps the interface and the stored weights", async () => {
  const { graph, weight } = model();
  const wide = inFloat32(graph);
  expect(wide.inputs).toBe(graph.inputs);
  expect([...wide.outputs.values()].map((value) => value.dtype)).toEqual(["float16", "float16"]);
  expect(constantsOf(wide)).toContain(weight);
  const inner = nodesOf(wide).filter((node) => node.op !== "Cast");
  expect(inner.flatMap((node) => node.outputs).some((value) => value.dtype === "float16")).toBe(false);
  const feeds = { x: tensor("float16", [2, 8], feed) };
  const [a, b] = [await evaluate(graph, feeds), await evaluate(wide, feeds)];
  for (const name of ["y", "hidden"])
    expect(numbers(b[name])).toEqual(numbers(a[name]).map((value) => expect.closeTo(value, 2)));
});

test("with a float32 interface nothing is half any more but what is stored", () => {
  const wide = inFloat32(model().graph, { interface: "float32" });
  expect(wide.inputs.map((value) => value.dtype)).toEqual(["float32"]);
  expect(dtypesIn(wide).has("float16")).toBe(false);
});

test("weights are trained through the Cast: their gradient is that of the float32 value", async () => {
  const { graph, weight } = model();
  const wide = inFloat32(graph, { interface: "float32" });
  const used = nodesOf(wide).find((node) => node.op === "Cast" && node.inputs[0] === weight)
    ?.outputs[0] as Value;
  const loss = ops.reduceSum(ops.square(wide.outputs.get("hidden") as Value), undefined, false);
  const [dw] = gradients(loss, [used]) as [Value];
  expect(dw.dtype).toBe("float32");
  const { out } = await evaluate(makeGraph("g", wide.inputs, [["out", dw]]), {
    x: tensor("float32", [2, 8], feed),
  });
  expect(numbers(out).every(Number.isFinite) && numbers(out).some((value) => value !== 0)).toBe(true);
});

test("weights made float32 beforehand stand where they are used, under their names", async () => {
  const { graph } = model();
  const once = await widenWeights(graph);
  const wide = inFloat32(once, { interface: "float32" });
  const product = nodesOf(wide).find((node) => node.op === "MatMul");
  expect(product?.inputs[1]).toMatchObject({ dtype: "float32", name: "w", source: { kind: "constant" } });
  const halves = { x: tensor("float16", [2, 8], feed) };
  expect(await evaluate(once, halves)).toEqual(await evaluate(graph, halves));
  const [a, b] = [wide, inFloat32(graph, { interface: "float32" })];
  const feeds = { x: tensor("float32", [2, 8], feed) };
  expect((await evaluate(a, feeds)).y).toEqual((await evaluate(b, feeds)).y);
});

test("sub-graphs, carried values and bfloat16", async () => {
  const bits = float32ToBfloat16(Float32Array.from({ length: 128 }, (_, at) => Math.sin(at) / 3));
  const w = constant({ dtype: "bfloat16", shape: [128], data: bits });
  const x = input("x", "float32", [128]);
  const [at, going, state] = [
    input("at", "int64", []),
    input("going", "bool", []),
    input("s", "bfloat16", [128]),
  ];
  const inner = constant({ dtype: "bfloat16", shape: [1], data: float32ToBfloat16(Float32Array.of(0.5)) });
  const next = ops.add(ops.mul(state, inner), w);
  const body: Attrs = {
    body: {
      g: {
        ...makeGraph(
          "body",
          [at, going, state],
          [
            ["c", op("Identity", [going])],
            ["n", next],
          ],
        ),
        captures: [w],
      },
    },
  };
  const y = op("Loop", [ops.scalar(3, "int64"), undefined, ops.cast(x, "bfloat16")], body);
  const wide = inFloat32(makeGraph("g", [x], [["y", ops.cast(y, "float32")]]));
  expect(dtypesIn(wide).has("bfloat16")).toBe(false);
  const values = Array.from({ length: 128 }, (_, index) => index / 64);
  const out = await evaluate(wide, { x: tensor("float32", [128], values) });
  const want = values.map((value, index) => value / 8 + (Math.sin(index) / 3) * 1.75);
  expect(numbers(out.y)).toEqual(want.map((value) => expect.closeTo(value, 2)));
});
