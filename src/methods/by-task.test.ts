import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { packExamples } from "../data/index.js";
import { initModel } from "../models/index.js";
import { maxAbsDiff } from "../tensor/index.js";
import { adamw, createStepper, evaluateOnce, fit, nextToken } from "../training/index.js";
import { adapt, byTask, loadAdapter, lora, merge, poly, saveAdapter, setTask } from "./index.js";
import { probeLogits, randomise, relativeDifference } from "./testing/fixtures.js";

const base = initModel(
  {
    model_type: "llama",
    vocab_size: 64,
    hidden_size: 16,
    intermediate_size: 32,
    num_hidden_layers: 1,
    num_attention_heads: 2,
  },
  { seed: 2 },
);
const PLAN = { batchSize: 2, lengths: [8], padId: 0 };
/** Rows that count on from a number in steps that differ by task. */
const rowsOf = (task: number) =>
  packExamples(
    [3, 9].map((first) => ({
      ids: Int32Array.from({ length: 8 }, (_, at) => (first + at * (2 + 5 * task)) % 60),
      lossMask: new Uint8Array(8).fill(1, 1),
    })),
    { length: 8, strategy: "none" },
  );
const adapted = () =>
  adapt(base, poly({ rank: 4, tasks: 3, skills: 3, targets: ["q_proj", "v_proj", "up_proj", "down_proj"] }));

test("each task has an update of its own, merged and saved as it is chosen", async () => {
  const model = randomise(await adapted(), 1, 0.3);
  const ofTask = async (task: number) => {
    setTask(model, "default", task);
    return probeLogits(model);
  };
  const [first, second] = [await ofTask(0), await ofTask(2)];
  expect(relativeDifference(second, first)).toBeGreaterThan(1e-3);
  expect(relativeDifference(await probeLogits(await merge(model)), second)).toBeLessThan(1e-4);
  const folder = mkdtempSync(join(tmpdir(), "tunesmith-poly-"));
  await saveAdapter(model, folder);
  const loaded = await loadAdapter(base, folder);
  expect(relativeDifference(await probeLogits(loaded), second)).toBeLessThan(1e-5);
  expect(maxAbsDiff(await ofTask(0), first)).toBe(0);
});

test("trained by task, every task gets better at its own rows, and tasks without rows keep their shares", async () => {
  const model = await adapted();
  const packs = [rowsOf(0), rowsOf(1)];
  const objectives = packs.map((train) => nextToken(model, { ...PLAN, train, validation: train }));
  const objective = byTask(model, objectives, { titles: ["up"] });
  const logits = model.parameters.get("default/model.layers.0.self_attn.q_proj.poly_logits");
  const start = logits?.tensor.data.slice() as Float32Array;
  const loss = async (task: number, rows: number) => {
    setTask(model, "default", task);
    return (await evaluateOnce(model, packs[rows] as (typeof packs)[0], PLAN)).loss;
  };
  const before = [await loss(0, 0), await loss(1, 1)];
  const options = { steps: 80, accumulate: 2, session: { threads: 1, worker: false } };
  const { evaluation } = await fit(objective, { ...options, optimizer: adamw({ lr: 2e-2, weightDecay: 0 }) });
  expect(Object.keys(evaluation?.scores ?? {}).toSorted()).toEqual(["perplexity.1", "perplexity.up"]);
  expect(await loss(0, 0)).toBeLessThan(Number(before[0]) - 0.1);
  expect(await loss(1, 1)).toBeLessThan(Number(before[1]) - 0.1);
  expect(await loss(0, 1)).toBeGreaterThan(await loss(1, 1));
  const now = logits?.tensor.data as Float32Array;
  expect(now.slice(6)).toEqual(start.slice(6));
  expect(now.slice(0, 6)).not.toEqual(start.slice(0, 6));
});

test("a batch brings its task whatever the switch says, and a run continues where it stood", async () => {
  const model = await adapted();
  const objective = byTask(
    model,
    [0, 1].map((task) => nextToken(model, { ...PLAN, train: rowsOf(task) })),
  );
  const pull = async (from: number, count: number) => {
    const source = objective.batches({ epoch: 0, step: from }, 4);
    const found = [];
    for (let at = 0; at < count; at++) found.push((await source.next()).value);
    return found;
  };
  const [whole, rest] = [await pull(0, 4), await pull(2, 2)];
  expect(rest.map(({ feeds }) => feeds)).toEqual(whole.slice(2).map(({ feeds }) => feeds));
  randomise(model, 1, 0.3);
  const stepper = createStepper(objective, { session: { threads: 1 } });
  const batch = whole[1] as (typeof whole)[0];
  const run = async (task: number) => {
    setTask(model, "default", task);
    return (await stepper.run(batch, batch.count, [1])).loss;
  };
  try {
    expect(await run(0)).toBe(await run(1));
  } finally {
    await stepper.close();
  }
});

test("tasks that there are not are named", async () => {
  const model = await adapted();
  expect(() => setTask(model, "default", 3)).toThrow(/no task 3/);
  const other = await adapt(base, lora({ targets: ["q_proj"] }));
  expect(() => setTask(other, "default", 0)).toThrow(/lora, which has no tasks/);
  const objective = nextToken(model, { ...PLAN, train: rowsOf(0) });
  expect(() => byTask(model, [objective, objective, objective, objective])).toThrow(/no task 3/);
  expect(() => byTask(model, [nextToken(base, { ...PLAN, train: rowsOf(0) })] as never)).toThrow(
    /another model/,
  );
  await expect(adapt(base, poly({ taskId: 1 }))).rejects.toMatchObject({ code: "config-invalid" });
});
