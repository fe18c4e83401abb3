import { expect, test } from "vitest";
import { input, makeGraph, op, ops, type Value } from "../../graph/index.js";
import { evaluate } from "../../runtime/index.js";
import { float16ToFloat32, tensor } from "../../tensor/index.js";
import { gradients } from "../gradients.js";

const values = Array.from({ length: 8 }, (_, at) => ((at * 5) % 8) / 4 - 0.9);
const builds: [string, (x: Value) => Value][] = [
  ["LayerNormalization", (x) => ops.layerNorm(x, ops.full([4], 1, x.dtype), undefined, 1e-3)],
  ["softmax and GELU", (x) => ops.mul(ops.softmax(x), ops.gelu(x))],
  ["matmul and reductions", (x) => ops.div(ops.matmul(x, ops.transposeLast(x)), ops.add(ops.reduceL2(x), 1))],
  ["activations", (x) => ops.add(op("HardSwish", [x]), op("Elu", [x]))],
];

test.each(builds)("half-precision gradients of %s equal single-precision ones", async (_, build) => {
  const results: number[][] = [];
  for (const dtype of ["float32", "float16"] as const) {
    const x = input("x", dtype, [2, 4]);
    const [dx] = gradients(ops.reduceSum(ops.square(build(x)), undefined, false), [x]) as [Value];
    const { out } = await evaluate(makeGraph("g", [x], [["out", dx]]), { x: tensor(dtype, [2, 4], values) });
    const data = dtype === "float16" ? float16ToFloat32(out?.data as Uint16Array) : out?.data;
    results.push(Array.from(data as Float32Array));
  }
  const [single, half] = results as [number[], number[]];
  const size = Math.max(...single.map(Math.abs));
  expect(half).toEqual(single.map((value) => expect.closeTo(value, size > 1 ? 1 : 2)));
});
