// What a second session over the same weight file adds to memory: a training graph and an evaluation graph.
//   node bench/ours/two-sessions.mjs --model DIR
import { parseArgs } from "node:util";
import { adapt, lora } from "tunesmith/methods";
import { loadFolder } from "tunesmith/models";
import { createSession } from "tunesmith/runtime";
import { evaluationGraph, nextToken, stepGraph } from "tunesmith/training";
import { memoryStatus } from "./process.mjs";

const { values } = parseArgs({ options: { model: { type: "string" } } });
const model = await adapt(await loadFolder(values.model), lora());
const objective = nextToken(model, { batchSize: 4, lengths: [128], padId: 0 });
const shape = { batch: 4, length: 128 };
const weightsMb =
  [...model.weights.values()].reduce((sum, value) => sum + value.shape.reduce((a, b) => a * b, 4), 0) /
  2 ** 20;
const training = await createSession(stepGraph(objective, shape).graph, { threads: 2 });
const oneMb = memoryStatus().RssAnon;
const evaluation = await createSession(evaluationGraph(objective, shape).graph, { threads: 2 });
const twoMb = memoryStatus().RssAnon;
await training.release();
await evaluation.release();
console.log(JSON.stringify({ weightsMb, oneMb, twoMb }));
