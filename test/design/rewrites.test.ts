import { expect, test } from "vitest";
import { gradients } from "../../src/autodiff/index.js";
import { input, makeGraph, ops, recompute, type Value } from "../../src/graph/index.js";
import { inputsOf, loadFolder, sitesOf, staticInputs } from "../../src/models/index.js";
import { evaluate } from "../../src/runtime/index.js";
import { type Tensor, tensor } from "../../src/tensor/index.js";

/** What docs/design.md says later methods need from the graph, each in the form it gives there. */

const LLAMA = new URL("../../fixtures/models/llama", import.meta.url).pathname;
const IDS = [3, 17, 40, 5];
const feeds: Record<string, Tensor> = {
  ids: tensor("int64", [1, 4], IDS),
  positions: tensor("int64", [1, 4], [0, 1, 2, 3]),
  segments: tensor("int32", [1, 4], [1, 1, 1, 1]),
};
const run = (outputs: [string, Value][]) => {
  const inputs = inputsOf(outputs.map(([, value]) => value));
  const read = Object.fromEntries(inputs.map(({ name }) => [String(name), feeds[String(name)] as Tensor]));
  return evaluate(makeGraph("design", inputs, outputs), read);
};
const numbers = (value: Tensor | undefined) => value?.data as Float32Array;

test("corda: a tap is one more output; the covariance XᵀX is computed where X is", async () => {
  const built = (await loadFolder(LLAMA)).build(staticInputs(1, 4));
  const site = sitesOf(built).find(({ path }) => path === "model.layers.1.mlp.down_proj");
  const x = site?.node.inputs[0] as Value;
  const results = await run([
    ["x", x],
    ["covariance", ops.matmul(ops.transpose(x, [1, 0]), x)],
  ]);
  const [rows, width] = [4, 40];
  expect(results.covariance?.shape).toEqual([width, width]);
  const data = numbers(results.x);
  for (const [i, j] of [
    [0, 0],
    [3, 17],
    [39, 2],
  ] as const) {
    let sum = 0;
    for (let t = 0; t < rows; t++) sum += Number(data[t * width + i]) * Number(data[t * width + j]);
    expect(numbers(results.covariance)[i * width + j]).toBeCloseTo(sum, 4);
  }
});

test("rosa: the gradient of a frozen weight is another output of the same pass", async () => {
  const built = (await loadFolder(LLAMA)).build(staticInputs(1, 4));
  const site = sitesOf(built).find(({ path }) => path === "model.layers.1.mlp.down_proj");
  if (!site) throw new Error("no site");
  const loss = ops.reduceMean(ops.square(built.logits), undefined, false);
  const [dw, dy] = gradients(loss, [site.weight, site.node.outputs[0] as Value]) as [Value, Value];
  const results = await run([
    ["dw", dw],
    ["dy", dy],
    ["x", site.node.inputs[0] as Value],
  ]);
  expect(results.dw?.shape).toEqual([24, 40]);
  for (const [i, j] of [
    [0, 0],
    [5, 31],
  ] as const) {
    let sum = 0;
    for (let t = 0; t < 4; t++)
      sum += Number(numbers(results.dy)[t * 24 + i]) * Number(numbers(results.x)[t * 40 + j]);
    expect(numbers(results.dw)[i * 40 + j]).toBeCloseTo(sum, 5);
  }
});

test("maml: an inner step is a substitution, and the outer gradient goes through it", async () => {
  // Tasks L_i = a (θ − c)² / 2: after n inner steps of size α the outer gradient is a (1 − α a)^2n (θ − c).
  const [theta, a, c] = ["theta", "a", "c"].map((name) => input(name, "float32", [1])) as [
    Value,
    Value,
    Value,
  ];
  const alpha = 0.1;
  const loss = ops.reduceSum(ops.mul(ops.mul(a, ops.square(ops.sub(theta, c))), 0.5), undefined, false);
  const lossAt = (value: Value) => recompute([loss], new Map([[theta, value]]))[0] as Value;
  const step = (value: Value, detached: boolean): Value => {
    const [gradient] = gradients(lossAt(value), [value]) as [Value];
    return ops.sub(value, ops.mul(detached ? ops.stopGradient(gradient) : gradient, alpha));
  };
  const outer = (steps: number, detached: boolean): Value => {
    let inner = theta;
    for (let at = 0; at < steps; at++) inner = step(inner, detached);
    return gradients(lossAt(inner), [theta])[0] as Value;
  };
  const outputs: [string, Value][] = [0, 1, 2, 3].map((steps) => [`maml${steps}`, outer(steps, false)]);
  const graph = makeGraph("maml", [theta, a, c], [...outputs, ["fomaml1", outer(1, true)]]);
  const [t, strength, centre] = [1.5, 2, -0.5];
  const one = (value: number) => tensor("float32", [1], [value]);
  const results = await evaluate(graph, { theta: one(t), a: one(strength), c: one(centre) });
  const shrink = 1 - alpha * strength;
  for (const steps of [0, 1, 2, 3])
    expect(numbers(results[`maml${steps}`])[0]).toBeCloseTo(
      strength * shrink ** (2 * steps) * (t - centre),
      5,
    );
  expect(numbers(results.fomaml1)[0]).toBeCloseTo(strength * shrink * (t - centre), 5);
});
