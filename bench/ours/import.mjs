// Opening a large ONNX file: reading it as a model, laying its training graph, creating a session.
//   node bench/ours/import.mjs --model DIR --file model.onnx
import { existsSync, statSync } from "node:fs";
import { dirname } from "node:path";
import { parseArgs } from "node:util";
import { adapt, lora } from "tunesmith/methods";
import { exportOnnx, loadModel } from "tunesmith/models";
import { createSession } from "tunesmith/runtime";
import { evaluationGraph, nextToken, stepGraph } from "tunesmith/training";
import { memoryStatus } from "./process.mjs";

const { values } = parseArgs({ options: { model: { type: "string" }, file: { type: "string" } } });
if (!existsSync(values.file)) await exportOnnx(await loadModel(values.model), dirname(values.file));
const before = memoryStatus().VmRSS;
const timed = async (use) => {
  const start = performance.now();
  const result = await use();
  return [result, (performance.now() - start) / 1000];
};
const [base, importSeconds] = await timed(() => loadModel(values.file));
const importedMb = memoryStatus().VmRSS - before;
const model = await adapt(base, lora({ targets: ["c_attn"] }));
const objective = nextToken(model, { batchSize: 4, lengths: [128], padId: 0 });
const shape = { batch: 4, length: 128 };
const [step, graphSeconds] = await timed(async () => stepGraph(objective, shape));
const [session, sessionSeconds] = await timed(() => createSession(step.graph, { threads: 2 }));
await session.release();
const evaluation = evaluationGraph(objective, shape);
const [second, forwardSessionSeconds] = await timed(() => createSession(evaluation.graph, { threads: 2 }));
await second.release();
console.log(
  JSON.stringify({
    fileMb: statSync(values.file).size / 2 ** 20,
    importSeconds,
    importedMb,
    graphSeconds,
    sessionSeconds,
    forwardSessionSeconds,
  }),
);
