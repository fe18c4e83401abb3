import { expect, test } from "vitest";
import { packExamples } from "../data/index.js";
import { constant, makeGraph } from "../graph/index.js";
import { evaluate } from "../runtime/index.js";
import { tensor } from "../tensor/index.js";
import { adamw, createStepper, fit, nextToken, type StepBatch } from "../training/index.js";
import { adapt, alignTasks, klDistance, lora, merge, mmdDistance, setActive, taskGaps } from "./index.js";
import { probeLogits, randomise, relativeDifference, smallModel } from "./testing/fixtures.js";

const base = smallModel();

const lengths = [7, 5, 8, 6, 8, 4, 7, 8, 6, 5];
const tasks = lengths.map((_, at) => ["one", "two", "three"][at % 3] as string);
const packs = packExamples(
  lengths.map((length, row) => ({
    ids: Int32Array.from({ length }, (_, at) => (7 * row + 3 * at * at + 1) % 64),
    lossMask: new Uint8Array(length).fill(1, 1),
  })),
  { length: 8, strategy: "none" },
);
const PLAN = { train: packs, batchSize: 6, lengths: [8], padId: 0, balance: { tasks } };
const session = { threads: 1, worker: false } as const;

const adapted = async () =>
  randomise(await adapt(base, lora({ rank: 4, targets: ["q_proj", "down_proj"] })), 1, 0.05);

async function stepOf(model: Awaited<ReturnType<typeof adapted>>, batch?: StepBatch) {
  const objective = nextToken(model, PLAN);
  const stepper = createStepper(objective, { session });
  const first = batch ?? ((await objective.batches({ epoch: 0, step: 0 }, 0).next()).value as StepBatch);
  try {
    return { batch: first, ...(await stepper.run(first, first.count, [1])) };
  } finally {
    await stepper.close();
  }
}

test("batches hold as many rows of each task, go through all of them, and continue where they stopped", async () => {
  const objective = nextToken(base, PLAN);
  const batches = objective.batches({ epoch: 0, step: 0 }, 3);
  const seen: StepBatch[] = [];
  for (let at = 0; at < 6; at++) seen.push((await batches.next()).value as StepBatch);
  for (const { rows = [], feeds } of seen) {
    expect(rows.map((row) => tasks[Number(row)])).toEqual(["one", "one", "three", "three", "two", "two"]);
    expect(feeds.task_ids?.data).toEqual(Int32Array.of(0, 0, 1, 1, 2, 2));
  }
  expect(new Set(seen.flatMap(({ rows = [] }) => rows)).size).toBe(10);
  const later = objective.batches(seen[3]?.state ?? { epoch: 0, step: 0 }, 3);
  expect(((await later.next()).value as StepBatch).rows).toEqual(seen[4]?.rows);
});

test("too few rows of a task, one task, or tasks of other rows are refused", () => {
  const make = (change: Partial<Parameters<typeof nextToken>[1]>) => () =>
    nextToken(base, { ...PLAN, ...change });
  expect(make({ batchSize: 5 })).toThrow(/1 of each of 3 tasks, fewer than 2/);
  expect(make({ balance: { tasks: tasks.map(() => "one") } })).toThrow(/not of several/);
  expect(make({ balance: { tasks: tasks.slice(1) } })).toThrow(/9 tasks are named for 10 rows/);
  expect(make({ balance: { tasks, minPerTask: 3 } })).toThrow(/fewer than 3/);
});

test("the term reaches A and what is below, never B of the same module; weight 0 changes no bit", async () => {
  const model = await adapted();
  const plain = await stepOf(model);
  const idle = await stepOf(alignTasks(model, { tasks: 3, weight: 0 }), plain.batch);
  expect(idle.loss).toBe(plain.loss);
  for (const [name, gradient] of plain.gradients) expect(idle.gradients.get(name), name).toEqual(gradient);

  const last = "model.layers.1.mlp.down_proj";
  const aligned = await stepOf(alignTasks(model, { tasks: 3, weight: 1, modules: [last] }), plain.batch);
  expect(aligned.loss).toBeGreaterThan(plain.loss);
  const moved = (name: string) => {
    const [now, before] = [aligned, plain].map(({ gradients }) => gradients.get(`default/${name}`));
    return now?.some((value, at) => Math.abs(value - Number(before?.[at])) > 1e-6);
  };
  expect(moved(`${last}.lora_A`)).toBe(true);
  expect(moved(`${last}.lora_B`)).toBe(false);
  expect(moved("model.layers.0.mlp.down_proj.lora_B")).toBe(true);
});

test("the distance falls with training; padding, dropout and merging are what they were", async () => {
  const model = alignTasks(await adapted(), { tasks: 3, weight: 0.2 });
  const objective = nextToken(model, PLAN);
  const before = await taskGaps(objective, { batches: 2, session });
  expect(before.map(({ layer }) => layer)).toContain("model.layers.1.self_attn.q_proj");
  expect(before).toHaveLength(4);
  await fit(objective, { steps: 15, optimizer: adamw({ lr: 1e-2 }), session });
  const after = await taskGaps(objective, { batches: 2, session });
  const mean = (gaps: typeof before) => gaps.reduce((sum, { dist }) => sum + dist, 0) / gaps.length;
  expect(mean(after)).toBeLessThan(0.7 * mean(before));
  expect(relativeDifference(await probeLogits(await merge(model)), await probeLogits(model))).toBeLessThan(
    1e-4,
  );
  expect(() => alignTasks(setActive(model, []), { tasks: 3 })).toThrow(/no module has a LoRA/);
  expect(() => alignTasks(model, { tasks: 1 })).toThrow(/1 tasks cannot be compared/);
  await expect(
    fit(nextToken(model, { ...PLAN, balance: undefined }), {
      steps: 1,
      optimizer: adamw({ lr: 1e-2 }),
      session,
    }),
  ).rejects.toThrow(/task_ids/);
});

test("padding does not count", async () => {
  const model = alignTasks(await adapted(), { tasks: 3, weight: 1 });
  const { batch, loss } = await stepOf(model);
  const ids = batch.feeds.ids;
  const segments = batch.feeds.segments?.data as Int32Array;
  const changed = Int32Array.from(ids?.data as Int32Array, (id, at) => (segments[at] === 0 ? 50 : id));
  const other = { ...batch, feeds: { ...batch.feeds, ids: tensor("int32", ids?.shape ?? [], changed) } };
  expect(changed).not.toEqual(ids?.data);
  expect((await stepOf(model, other)).loss).toBeCloseTo(loss, 5);
  const unmasked = alignTasks(await adapted(), { tasks: 3, weight: 1, maskPadding: false });
  expect((await stepOf(unmasked, other)).loss).not.toBeCloseTo((await stepOf(unmasked, batch)).loss, 5);
});

/** Between the first and the second half of some rows of one feature. */
async function distance(
  of: typeof klDistance,
  z: readonly number[],
  masked?: readonly number[],
): Promise<number> {
  const numbers = (shape: number[], values: readonly number[]) =>
    constant(tensor("float32", shape, Float32Array.from(values)));
  const [rows, half] = [z.length, z.length / 2];
  const owners = Array.from({ length: 2 * rows }, (_, at) => (Math.floor(at / half) % 3 === 0 ? 1 : 0));
  const mask = masked && numbers([1, rows], masked);
  const out = of({ z: numbers([1, rows, 1], z), membership: numbers([2, rows], owners), mask });
  return Number((await evaluate(makeGraph("distance", [], [["d", out]]), {})).d?.data[0]);
}

test("distances against their formulas", async () => {
  // Variances 2 and 8 with means 1 and 4: ¼ (2/8 + 8/2 + 9·(1/2 + 1/8) − 2).
  expect(await distance(klDistance, [0, 2, 2, 6])).toBeCloseTo(0.25 * (0.25 + 4 + 9 * 0.625 - 2), 5);
  expect(await distance(klDistance, [0, 2, 0, 2])).toBeCloseTo(0, 6);
  expect(await distance(mmdDistance, [0, 2, 2, 0])).toBeCloseTo(0, 5);
  // A row that is masked out leaves one of its task, which has no variance: nothing is compared.
  expect(await distance(klDistance, [0, 2, 2, 6], [1, 1, 1, 0])).toBe(0);
});
