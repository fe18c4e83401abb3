import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { compareRuns, metricLine } from "./compare.js";
import { metricsCsv, runJsonLines } from "./export.js";
import { memoryRunStore } from "./memory-store.js";
import { findRun, newRunId } from "./runs.js";
import { startTracker } from "./tracker.js";
import type { MetricPoint, NewRun } from "./types.js";

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

const run: NewRun = {
  ...{ id: "r", name: "r", createdAt: 0, host: "h", pid: 1, version: "0", method: "lora", model: "m" },
  ...{ runDir: "d", steps: 5, config: {}, origins: {} },
};
const stepEvent = (step: number, loss: number) =>
  ({
    type: "step",
    step,
    steps: 5,
    loss,
    ...{ learningRate: 0.1, gradNorm: 2, tokensPerSecond: 9, remainingSeconds: undefined },
  }) as const;

test("events become metrics, written in batches; the run knows its latest numbers", async () => {
  const store = memoryRunStore();
  const record = vi.spyOn(store, "record");
  const tracker = await startTracker({ store, run });
  for (const step of [1, 2, 3]) tracker.onEvent(stepEvent(step, 1 / step));
  tracker.onEvent({ type: "evaluation", step: 3, loss: 0.5, count: 7, scores: { perplexity: 1.6 } });
  tracker.log(3, { mine: 4 });
  expect(record).not.toHaveBeenCalled();
  await vi.advanceTimersByTimeAsync(1000);
  expect(record).toHaveBeenCalledTimes(1);
  expect((await store.metrics("r", ["loss"])).map(({ step, value }) => [step, value])).toEqual([
    [1, 1],
    [2, 1 / 2],
    [3, 1 / 3],
  ]);
  expect((await findRun(store, "last")).summary).toEqual({
    ...{ loss: 1 / 3, learningRate: 0.1, gradNorm: 2, tokensPerSecond: 9 },
    ...{ evalLoss: 0.5, evalPerplexity: 1.6, mine: 4 },
  });
  tracker.onEvent(stepEvent(4, 0.1));
  tracker.onEvent({ type: "checkpoint", step: 4, folder: "/d/checkpoints/4" });
  await tracker.finish("finished");
  expect(await findRun(store, "r")).toMatchObject({
    status: "finished",
    step: 4,
    finishedAt: expect.any(Number),
  });
  expect(await store.artifacts("r")).toMatchObject([
    { kind: "checkpoint", path: "/d/checkpoints/4", step: 4 },
  ]);
  expect(vi.getTimerCount()).toBe(0);
});

test("a continued run drops what came after its checkpoint", async () => {
  const store = memoryRunStore();
  const first = await startTracker({ store, run });
  for (const step of [1, 2, 3]) first.onEvent(stepEvent(step, step));
  await first.finish("interrupted", "cancelled");
  const again = await startTracker({ store, run, continued: true });
  expect(await findRun(store, "r")).toMatchObject({
    status: "running",
    error: undefined,
    finishedAt: undefined,
  });
  again.onEvent({ type: "resumed", step: 1 });
  again.onEvent(stepEvent(2, 20));
  await again.finish("finished");
  expect((await store.metrics("r", ["loss"])).map(({ value }) => value)).toEqual([1, 20]);
});

test("a continued run without a checkpoint begins again", async () => {
  const store = memoryRunStore();
  const first = await startTracker({ store, run });
  for (const step of [1, 2, 3]) first.onEvent(stepEvent(step, step));
  await first.finish("interrupted");
  const again = await startTracker({ store, run, continued: true });
  again.onEvent(stepEvent(1, 10));
  again.onEvent(stepEvent(2, 20));
  await again.finish("finished");
  expect((await store.metrics("r", ["loss"])).map(({ value }) => value)).toEqual([10, 20]);
});

test("a store that fails is reported, and gets everything later", async () => {
  const store = memoryRunStore();
  const errors: unknown[] = [];
  const tracker = await startTracker({ store, run, onError: (error) => errors.push(error) });
  const record = vi.spyOn(store, "record").mockRejectedValueOnce(new Error("locked"));
  tracker.onEvent(stepEvent(1, 1));
  await vi.advanceTimersByTimeAsync(1000);
  expect(errors).toEqual([new Error("locked")]);
  tracker.onEvent(stepEvent(2, 2));
  await vi.advanceTimersByTimeAsync(1000);
  expect(record).toHaveBeenCalledTimes(2);
  expect((await store.metrics("r", ["loss"])).map(({ step }) => step)).toEqual([1, 2]);
});

test("a quiet run gives a sign of life", async () => {
  const store = memoryRunStore();
  const tracker = await startTracker({ store, run });
  await vi.advanceTimersByTimeAsync(31_000);
  const { heartbeatAt } = await findRun(store, "r");
  expect(Date.now() - heartbeatAt).toBeLessThan(2000);
  await tracker.finish("finished");
});

test("many points go in parts, none twice", async () => {
  const store = memoryRunStore();
  const tracker = await startTracker({ store, run });
  const record = vi.spyOn(store, "record");
  for (let step = 1; step <= 2500; step++) tracker.log(step, { a: step });
  tracker.log(2500, { a: -1 });
  await tracker.finish("finished");
  expect(record.mock.calls.map(([, points]) => points.length)).toEqual([1000, 1000, 500]);
  expect((await store.metrics("r")).at(-1)?.value).toBe(-1);
});

test("runs are found by id, by a part of it, and by name", async () => {
  const store = memoryRunStore();
  await store.create({ ...run, id: "20260101-000000-aaaa", name: "one", createdAt: 1 });
  await store.create({ ...run, id: "20260101-000000-bbbb", name: "two", createdAt: 2 });
  expect((await findRun(store, "last")).name).toBe("two");
  expect((await findRun(store, "aaaa")).name).toBe("one");
  expect((await findRun(store, "one")).name).toBe("one");
  await expect(findRun(store, "2026")).rejects.toThrow(/2 runs match '2026'/);
  expect(newRunId(new Date("2026-01-31T23:59:59Z"))).toMatch(/^20260131-235959-[0-9a-f]{4}$/);
});

const points = (values: readonly number[]): MetricPoint[] =>
  values.map((value, at) => ({ name: "loss", step: at + 1, value, time: at * 1000 }));

test("a comparison shows only what differs, and every metric", async () => {
  const store = memoryRunStore();
  await store.create({ ...run, id: "a", config: { lr: 1, map: { x: 1, y: 2 }, rank: 8 }, createdAt: 1 });
  await store.create({ ...run, id: "b", config: { lr: 2, map: { y: 2, x: 1 } }, createdAt: 2 });
  await store.record("a", [], { summary: { loss: 3 } });
  expect(compareRuns(await store.list())).toEqual({
    ids: ["b", "a"],
    config: [
      { key: "lr", values: [2, 1] },
      { key: "rank", values: [undefined, 8] },
    ],
    metrics: [{ key: "loss", values: [undefined, 3] }],
  });
});

test("lines of a chart are smooth, finite and short", () => {
  const flat = metricLine("x", points([5, 5, Number.NaN, 5]), { smoothing: 0.9 });
  expect(flat.steps).toEqual([1, 2, 4]);
  for (const value of flat.values) expect(value).toBeCloseTo(5, 12);
  const [first = 0, second = 0] = metricLine("x", points([1, 2]), { smoothing: 0.5 }).values;
  expect([first, second]).toEqual([1, (0.5 * 0.5 * 1 + 0.5 * 2) / 0.75]);
  const long = metricLine("x", points(Array.from({ length: 1000 }, (_, at) => at)), { maxPoints: 10 });
  expect(long.values).toHaveLength(10);
  expect(long.values[0]).toBe(49.5);
  expect(long.steps.at(-1)).toBe(1000);
});

test("CSV has one row per step, JSON lines the whole run", async () => {
  const all = [...points([2, Number.NaN]), { name: "evalLoss", step: 2, value: 1.5, time: 5000 }];
  expect(metricsCsv(all)).toBe(
    "step,timestamp,evalLoss,loss\n1,1970-01-01T00:00:00.000Z,,2\n2,1970-01-01T00:00:05.000Z,1.5,NaN\n",
  );
  const store = memoryRunStore();
  await store.create(run);
  const lines = runJsonLines(await findRun(store, "r"), all, [{ kind: "model", path: "o", createdAt: 1 }])
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line));
  expect(lines.map(({ type }) => type)).toEqual(["run", "step", "step", "artifact"]);
  expect(lines[2]).toMatchObject({ step: 2, loss: "NaN", evalLoss: 1.5 });
});
