import { expect, test } from "vitest";
import { vjp } from "../../autodiff/index.js";
import { constant, makeGraph, type Node, nodesOf, ops, scope, type Value } from "../../graph/index.js";
import { inputsOf, type TensorModel, tensorInputs } from "../../models/index.js";
import { rng } from "../../runtime/random/index.js";
import { tensor } from "../../tensor/index.js";
import { adapt, lora } from "../index.js";
import { baseModel } from "../testing/fixtures.js";
import { loraCost } from "./lora-cost.js";

const SIZES = [12, 20, 16, 8];

/** Linear maps `fc1`, `fc2`, `fc3` with tanh between. */
function network(): TensorModel {
  const weights = SIZES.slice(1).map((out, at) => {
    const shape = [out, Number(SIZES[at])];
    const data = rng(1, "cost", at).fillNormal(new Float32Array(out * Number(SIZES[at])));
    return constant(tensor("float32", shape, data), `fc${at + 1}.weight`);
  });
  return {
    ...{ task: "custom", architecture: "network", parameters: new Map(), config: {}, tokenizer: undefined },
    ...{ origin: undefined, defaultTargets: ["fc1", "fc2", "fc3"], probeAxes: { batch: 2 } },
    weights: new Map(weights.map((value) => [String(value.name), value])),
    inputs: [{ name: "x", dtype: "float32", shape: ["batch", Number(SIZES[0])] }],
    build({ values }) {
      let h = values.x as Value;
      for (const [at, weight] of weights.entries()) {
        const x = at > 0 ? ops.tanh(h) : h;
        h = scope(`fc${at + 1}`, () => ops.gemm(x, weight, undefined, { transB: true }));
      }
      return { values: { logits: h }, boundaries: [] };
    },
  };
}

/** Two for each multiplication of a matrix product. */
function flopsOf({ op, inputs, outputs, attrs }: Node): number {
  if (op !== "Gemm" && op !== "MatMul") return 0;
  const [rows, columns] = (inputs[0] as Value).shape as [number, number];
  const turned = attrs.transA && "i" in attrs.transA && Number(attrs.transA.i) !== 0;
  const result = outputs[0]?.shape.reduce<number>((product, dim) => product * Number(dim), 1) ?? 0;
  return 2 * result * (turned ? rows : columns);
}

test.each([1, 3])(
  "rank %i: the table has every product of a training graph, but for what the first map's inputs do not want",
  async (rank) => {
    const tokens = 7;
    const base = network();
    const adaptation = lora({ rank });
    const model = await adapt(base, adaptation);
    const { values } = model.build(tensorInputs(model, { batch: tokens }, true)) as ReturnType<
      TensorModel["build"]
    >;
    const trained = [...model.parameters.values()].filter(({ trainable }) => trainable);
    const found = vjp(
      [{ output: values.logits as Value, gradient: ops.full([tokens, 8], 1, "float32") }],
      trained.map(({ value }) => value),
    ) as Value[];
    const graph = makeGraph("step", inputsOf([...found, values.logits as Value]), [
      ["logits", values.logits as Value],
      ...found.map((value, at) => [`d${at}`, value] as const),
    ]);
    const counted = nodesOf(graph).reduce((sum, node) => sum + flopsOf(node), 0);
    const { flops, sites, parameters, stateBytes, keptBytes } = loraCost(base, adaptation, { tokens });
    const total = Object.values(flops).reduce((a, b) => a + b, 0);
    const [inn, out] = [Number(SIZES[0]), Number(SIZES[1])];
    expect(counted).toBe(total - 2 * tokens * inn * out - 2 * tokens * rank * inn);
    expect(parameters).toBe(trained.reduce((sum, each) => sum + each.tensor.data.length, 0));
    expect(stateBytes).toBe(16 * parameters);
    expect(keptBytes).toBe(4 * tokens * (12 + 20 + 16 + 3 * rank));
    expect(sites.map(({ path }) => path)).toEqual(["fc1", "fc2", "fc3"]);
  },
);

test("ranks by module count; of full fine-tuning it is two thirds and what the rank adds", async () => {
  const base = await baseModel("llama");
  const { sites, ofFull } = loraCost(
    base,
    lora({ rank: 4, targets: ["q_proj", "v_proj"], rankPattern: { q_proj: 2 } }),
    { tokens: 10 },
  );
  expect([...new Set(sites.map(({ path, rank }) => `${path.slice(-6)} ${rank}`))].sort()).toEqual([
    "q_proj 2",
    "v_proj 4",
  ]);
  expect(ofFull).toBeGreaterThan(2 / 3);
  expect(() => loraCost(base, lora({ targets: ["embed_tokens"] }), { tokens: 1 })).toThrow(
    /of kind embedding/,
  );
  expect(() => loraCost(base, lora({ dora: true }), { tokens: 1 })).toThrow(/DoRA/);
});
