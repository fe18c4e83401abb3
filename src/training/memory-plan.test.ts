import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { encodeGraph, input, makeGraph, ops } from "../graph/index.js";
import { adapt, lora } from "../methods/index.js";
import { initModel } from "../models/index.js";
import { forBackend } from "../runtime/index.js";
import { memoryPlan, nextToken, stepGraph } from "./index.js";
import { peakOf } from "./memory-plan.js";

/** A process of its own, so that its peak is this step's; the session's options are those of runtime/ort/node.ts. */
const CHILD = `
const ort = require("onnxruntime-node");
const peak = () => process.resourceUsage().maxRSS * 1024;
(async () => {
  const session = await ort.InferenceSession.create(process.argv[1], {
    intraOpNumThreads: 2, enableMemPattern: false, logSeverityLevel: 3,
    extra: { session: { disable_prepacking: "1", intra_op: { allow_spinning: "0" } } },
  });
  const feeds = {};
  for (const { name, type, shape } of session.inputMetadata) {
    const length = shape.reduce((a, b) => a * b, 1);
    const data = type === "int32" ? new Int32Array(length) : new Float32Array(length).fill(0.01);
    feeds[name] = new ort.Tensor(type, data, shape);
  }
  const before = peak();
  await session.run(feeds);
  console.log(peak() - before);
})();
`;

/** Bytes that one step adds to a process. */
function measured(model: Uint8Array): number {
  const folder = mkdtempSync(join(tmpdir(), "tunesmith-plan-"));
  try {
    const path = join(folder, "model.onnx");
    writeFileSync(path, model);
    const root = new URL("../../", import.meta.url);
    return Number(execFileSync(process.execPath, ["-e", CHILD, path], { encoding: "utf8", cwd: root }));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

const SHAPE = { batch: 4, length: 128 };

async function midModel() {
  const base = initModel({
    model_type: "llama",
    vocab_size: 4000,
    hidden_size: 256,
    intermediate_size: 768,
    num_hidden_layers: 4,
    num_attention_heads: 4,
  });
  const model = await adapt(base, lora({ targets: "all-linear" }));
  return nextToken(model, { batchSize: 4, lengths: [128], padId: 0 });
}

test.each([false, true])(
  "a step takes within 35 % of the planned memory (recompute %s)",
  async (recompute) => {
    const objective = await midModel();
    const planned = memoryPlan(objective, SHAPE, { recompute }).activations;
    const growth = measured(encodeGraph(forBackend(stepGraph(objective, SHAPE, { recompute }).graph, "cpu")));
    expect(growth / planned).toBeGreaterThan(0.65);
    expect(growth / planned).toBeLessThan(1.35);
  },
);

test("the plan counts weights, parameters and what the optimiser keeps, and sees recomputation", async () => {
  const objective = await midModel();
  const plan = memoryPlan(objective, SHAPE);
  const trained = [...objective.model.parameters.values()].filter(({ trainable }) => trainable);
  const bytes = trained.reduce((sum, { tensor }) => sum + 4 * tensor.data.length, 0);
  expect(plan.gradients).toBe(bytes);
  expect(plan.optimizer).toBe(2 * bytes);
  expect(memoryPlan(objective, SHAPE, { stateFactor: 0 }).optimizer).toBe(0);
  // Embedding and head of 4000 x 256, four layers of 4 x 256² and 3 x 256 x 768.
  expect(plan.weights).toBeGreaterThan(4 * (2 * 4000 * 256 + 4 * (4 * 256 ** 2 + 3 * 256 * 768)));
  expect(memoryPlan(objective, SHAPE, { recompute: true }).activations).toBeLessThan(0.6 * plan.activations);
});

test("values live until their last reader", () => {
  const x = input("x", "float32", [256]);
  const [a, b] = [ops.matmul(x, x), ops.exp(x)];
  // exp needs 1 KB, its successor reuses the memory, the sum is a scalar.
  const chain = ops.exp(ops.exp(b));
  expect(peakOf(makeGraph("chain", [x], [["y", chain]]))).toBe(1024);
  expect(
    peakOf(
      makeGraph(
        "both",
        [x],
        [
          ["y", chain],
          ["b", b],
        ],
      ),
    ),
  ).toBe(2048);
  expect(peakOf(makeGraph("scalar", [x], [["a", a]]))).toBe(4);
});
