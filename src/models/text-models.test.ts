import { readdirSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { gradients } from "../autodiff/index.js";
import { input, makeGraph, ops, rewriteValues, type Value } from "../graph/index.js";
import { evaluate } from "../runtime/index.js";
import { maxAbsDiff, openSafetensors, readTensor, type Tensor } from "../tensor/index.js";
import { loadModel } from "./load.js";
import { runModel, tensorInputs } from "./probe.js";
import type { TensorModel } from "./types.js";

const FIXTURES = new URL("../../fixtures/text-models/", import.meta.url).pathname;
const names = readdirSync(FIXTURES);

const TASKS: Readonly<Record<string, string>> = {
  words: "masked-lm",
  classes: "sequence-classification",
  labels: "sequence-classification",
  number: "regression",
  tokens: "token-classification",
  spans: "question-answering",
  vectors: "embedding",
};
const taskOf = (name: string) =>
  name === "whisper-classes"
    ? "audio-classification"
    : (TASKS[name.slice(name.lastIndexOf("-") + 1)] ?? "seq2seq");

const load = (name: string) => loadModel(`${FIXTURES}${name}`, { task: "auto" }) as Promise<TensorModel>;

async function expectedOf(name: string) {
  const file = await openSafetensors(`${FIXTURES}${name}/expected.safetensors`);
  const read = async (prefix: string) => {
    const keys = [...file.entries.keys()].filter((key) => key.startsWith(prefix));
    const pairs = keys.map(async (key) => [key.slice(prefix.length), await file.read(key)] as const);
    return Object.fromEntries(await Promise.all(pairs));
  };
  return {
    inputs: await read("input."),
    outputs: await read("output."),
    targets: await read("target."),
    grads: await read("grad."),
    loss: await file.read("loss"),
  };
}

/** Largest difference in shares of the expected scale. A tensor that is zero (a key bias: softmax ignores it) is compared as it is. */
function difference(actual: Tensor | undefined, expected: Tensor): number {
  const largest = Math.max(...Array.from(expected.data as Float32Array, Math.abs));
  expect(actual?.shape).toEqual(expected.shape);
  return maxAbsDiff(actual as Tensor, expected) / (largest > 1e-5 ? largest : 1);
}

const mean = (x: Value) => ops.reduceMean(x, undefined, false);

/** The standard loss of a head, written plainly. */
function lossOf(outputs: Readonly<Record<string, Value>>, targets: Readonly<Record<string, Value>>): Value {
  const parts = Object.entries(targets).map(([name, target]) => {
    const output = outputs[name] as Value;
    if (target.dtype !== "int64") return { mean: binaryOrSquares(output, target), name };
    const width = output.shape.at(-1) as number;
    const rows = ops.reshape(output, [-1, width]);
    const labels = ops.reshape(target, [-1]);
    const known = ops.cast(ops.greaterOrEqual(labels, 0), "float32");
    const picked = ops.gatherElements(ops.logSoftmax(rows), ops.unsqueeze(ops.max(labels, 0), 1), 1);
    const total = ops.reduceSum(ops.mul(ops.squeeze(picked, 1), known), undefined, false);
    return { mean: ops.neg(ops.div(total, ops.reduceSum(known, undefined, false))), name };
  });
  const sum = parts.map((part) => part.mean).reduce((a, b) => ops.add(a, b));
  return parts.some(({ name }) => name === "start_logits") ? ops.div(sum, 2) : sum;
}

function binaryOrSquares(output: Value, target: Value): Value {
  const several = target.shape.length === 2 && target.shape[1] === 4;
  if (!several) return mean(ops.square(ops.sub(output, target)));
  return mean(ops.sub(ops.softplus(output), ops.mul(output, target)));
}

describe.each(names)("%s", (name) => {
  test("task and outputs are the reference's", async () => {
    const model = await load(name);
    expect(model.task).toBe(taskOf(name));
    const { inputs, outputs } = await expectedOf(name);
    const given = await runModel(model, inputs);
    for (const [key, value] of Object.entries(outputs)) {
      expect(difference(given[key], value), key).toBeLessThan(1e-4);
    }
  });

  test("loss and every gradient equal the reference's", async () => {
    const model = await load(name);
    const { inputs, targets, grads, loss } = await expectedOf(name);
    const axes = {
      batch: 2,
      length: inputs.input_ids?.shape[1] ?? 0,
      decoder_length: inputs.decoder_input_ids?.shape[1] ?? 0,
    };
    const laid = tensorInputs(model, axes);
    const wanted = Object.entries(targets).map(([key, { dtype, shape }]) => [
      key,
      input(`target.${key}`, dtype, shape),
    ]);
    const frozen = [...model.weights.values()];
    const trained = frozen.map((value) => input(String(value.name), "float32", value.shape));
    const results = model.build(laid).values;
    const replace = new Map(frozen.map((value, at) => [value, trained[at] as Value]));
    const get = rewriteValues(Object.values(results), { replace });
    const outputs = Object.fromEntries(Object.entries(results).map(([key, value]) => [key, get(value)]));
    const total = lossOf(outputs, Object.fromEntries(wanted));
    const named = [...model.weights.keys()];
    const gradient = gradients(total, trained).map((value, at): [string, Value] => [
      `grad.${named[at]}`,
      value,
    ]);
    const graphInputs = [
      ...Object.values(laid.values),
      ...wanted.map(([, value]) => value as Value),
      ...trained,
    ];
    const graph = makeGraph(name, graphInputs, [["loss", total], ...gradient]);
    const weights = await Promise.all(
      frozen.map(async ({ source }, at) => {
        if (source.kind !== "constant") throw new Error("a weight is not a constant");
        return [String(trained[at]?.name), await readTensor(source.data)] as const;
      }),
    );
    const feeds = {
      ...inputs,
      ...Object.fromEntries(Object.entries(targets).map(([key, value]) => [`target.${key}`, value])),
      ...Object.fromEntries(weights),
    };
    const given = await evaluate(graph, feeds);
    expect(difference(given.loss, { ...loss, shape: [] }), "loss").toBeLessThan(1e-4);
    // What the loss does not depend on (a pooler that nobody reads) is not among our weights and has no gradient there.
    const reached = Object.entries(grads).filter(([, value]) =>
      (value.data as Float32Array).some((item) => item !== 0),
    );
    expect(reached.length).toBeGreaterThan(10);
    for (const [key, value] of reached) {
      expect(difference(given[`grad.${key}`], value), key).toBeLessThan(1e-4);
    }
    expect(named.filter((key) => !(key in grads))).toEqual([]);
  });
});
