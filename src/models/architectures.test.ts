import { existsSync, readdirSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { gradients } from "../autodiff/index.js";
import { input, makeGraph, ops, rewriteValues, type Value } from "../graph/index.js";
import { createSession } from "../runtime/index.js";
import { maxAbsDiff, openSafetensors, type Tensor, tensor } from "../tensor/index.js";
import { causalLm } from "./causal-lm.js";
import { loadWeights, readJson } from "./checkpoint.js";

const FIXTURES = new URL("../../fixtures/models/", import.meta.url).pathname;
const names = readdirSync(FIXTURES).filter((name) => existsSync(`${FIXTURES}${name}/config.json`));

/** Mean next-token cross-entropy over labels (−1 ignored), written plainly. */
function meanLoss(logits: Value, labels: Value): Value {
  const known = ops.cast(ops.greaterOrEqual(labels, 0), "float32");
  const safe = ops.unsqueeze(ops.max(labels, 0), 1);
  const picked = ops.gatherElements(ops.logSoftmax(logits), safe, 1);
  const total = ops.reduceSum(ops.mul(ops.squeeze(picked, 1), known), undefined, false);
  return ops.neg(ops.div(total, ops.reduceSum(known, undefined, false)));
}

const int64 = (shape: number[], values: number[]) => tensor("int64", shape, values);
const numbers = (t: Tensor) => Array.from(t.data as ArrayLike<bigint>, Number);
const closeTo = (actual: Tensor, expected: Tensor, what: string) => {
  const scale = Math.max(...Array.from(expected.data as Float32Array, Math.abs), 1e-6);
  expect(maxAbsDiff(actual, expected) / scale, what).toBeLessThan(1e-4);
};

const load = async (name: string, config = "config.json") =>
  causalLm(await readJson(`${FIXTURES}${name}/${config}`), await loadWeights(`${FIXTURES}${name}`));

function inputsFor(batch: number, length: number) {
  return {
    ids: input("ids", "int64", [batch, length]),
    positions: input("positions", "int64", [batch, length]),
    segments: input("segments", "int32", [batch, length]),
  };
}

describe.each(names)("%s", (name) => {
  test("logits, loss and every gradient equal the reference's", async () => {
    const model = await load(name);
    const expected = await openSafetensors(`${FIXTURES}${name}/expected.safetensors`);
    const ids = await expected.read("input_ids");
    const [batch, length] = ids.shape as [number, number];
    const inputs = inputsFor(batch, length);
    const labels = input("labels", "int64", [batch * length]);
    const outputs = model.build(inputs);
    const frozen = [...model.weights.values()];
    const trained = frozen.map((value) => input(String(value.name), "float32", value.shape));
    const replace = new Map(frozen.map((value, index) => [value, trained[index] as Value] as const));
    const get = rewriteValues([outputs.logits], { replace });
    const logits = get(outputs.logits);
    const loss = meanLoss(logits, labels);
    const grads = gradients(loss, trained);
    const session = await createSession(
      makeGraph(
        name,
        [...Object.values(inputs), labels, ...trained],
        [
          ["logits", logits],
          ["loss", loss],
          ...grads.map((grad, index): [string, Value] => [`grad.${trained[index]?.name}`, grad]),
        ],
      ),
    );
    const tokens = numbers(ids);
    const next = tokens.map((_, at) => ((at + 1) % length === 0 ? -1 : (tokens[at + 1] as number)));
    const checkpoint = await openSafetensors(`${FIXTURES}${name}/model.safetensors`);
    const feeds: Record<string, Tensor> = {
      ids,
      positions: int64(
        [batch, length],
        tokens.map((_, at) => at % length),
      ),
      segments: tensor(
        "int32",
        [batch, length],
        tokens.map(() => 1),
      ),
      labels: int64([batch * length], next),
    };
    for (const value of trained) feeds[String(value.name)] = await checkpoint.read(String(value.name));
    const results = await session.run(feeds);
    const expectedLogits = await expected.read("logits");
    closeTo({ ...(results.logits as Tensor), shape: expectedLogits.shape }, expectedLogits, "logits");
    closeTo(results.loss as Tensor, { ...(await expected.read("loss")), shape: [] }, "loss");
    const gradientNames = [...expected.entries.keys()].filter((key) => key.startsWith("grad."));
    expect(gradientNames.length).toBe(trained.length);
    for (const key of gradientNames) closeTo(results[key] as Tensor, await expected.read(key), key);
    await session.release();
  });

  test("packed documents do not see one another", async () => {
    const model = await load(name);
    const expected = await openSafetensors(`${FIXTURES}${name}/expected.safetensors`);
    const ids = await expected.read("packed.input_ids");
    const length = ids.shape[1] as number;
    const inputs = inputsFor(1, length);
    const labels = input("labels", "int64", [length]);
    const loss = meanLoss(model.build(inputs).logits, labels);
    const session = await createSession(
      makeGraph(name, [...Object.values(inputs), labels], [["loss", loss]]),
    );
    const segments = numbers(await expected.read("packed.segment_ids"));
    const tokens = numbers(ids);
    const next = tokens.map((_, at) => (segments[at + 1] === segments[at] ? (tokens[at + 1] as number) : -1));
    const results = await session.run({
      ids,
      positions: await expected.read("packed.position_ids"),
      segments: tensor("int32", [1, length], segments),
      labels: int64([length], next),
    });
    closeTo(results.loss as Tensor, { ...(await expected.read("packed.loss")), shape: [] }, "packed loss");
    await session.release();
  });
});
