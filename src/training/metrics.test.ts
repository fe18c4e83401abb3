import { appendFile, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { formatDuration, progressMeter, runningAverage, weightedMean } from "./meters.js";
import { openMetrics, readMetrics } from "./metrics.js";

let folder = "";
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "metrics-"));
});
afterAll(() => rm(folder, { recursive: true }));

test("lines are appended in order, with non-finite numbers as text", async () => {
  const path = join(folder, "a.jsonl");
  const metrics = await openMetrics(path);
  await Promise.all([1, 2, 3].map((step) => metrics.write({ step, loss: step === 2 ? Number.NaN : 0.1 })));
  expect(await readFile(path, "utf8")).toBe(
    '{"step":1,"loss":0.1}\n{"step":2,"loss":"NaN"}\n{"step":3,"loss":0.1}\n',
  );
});

test("a torn last line is tolerated on read and gone after resume at a step", async () => {
  const path = join(folder, "b.jsonl");
  const metrics = await openMetrics(path);
  for (let step = 1; step <= 5; step++) await metrics.write({ step });
  // A crash in the middle of a two-byte character.
  await appendFile(path, Buffer.concat([Buffer.from('{"step":6,"note":"'), Buffer.from("é").subarray(0, 1)]));
  const read = await readMetrics(path);
  expect(read.torn).toBe(true);
  expect(read.records.map(({ step }) => step)).toEqual([1, 2, 3, 4, 5]);
  const resumed = await openMetrics(path, { resumeAt: 3 });
  await resumed.write({ step: 4 });
  expect(await readMetrics(path)).toEqual({ records: [1, 2, 3, 4].map((step) => ({ step })), torn: false });
});

test("a file that is no metrics file is refused, naming the line, and left as it is", async () => {
  const path = join(folder, "c.jsonl");
  await writeFile(path, '{"step":1}\nhello\n');
  await expect(openMetrics(path, { resumeAt: 1 })).rejects.toThrow(/c.jsonl: line 2 is not a metrics record/);
  expect(await readFile(path, "utf8")).toBe('{"step":1}\nhello\n');
});

test("meters", () => {
  const average = runningAverage(2);
  for (const value of [Number.NaN, 2, 4]) average.add(value);
  expect(average.mean()).toBe(3);
  const mean = weightedMean();
  mean.add(Number.NaN, 0);
  mean.add(1, 3);
  mean.add(5, 1);
  expect([mean.mean(), mean.weight]).toEqual([2, 4]);
  let time = 0;
  const meter = progressMeter({ totalSteps: 20, firstStep: 10, window: 2, now: () => time });
  expect([meter.tokensPerSecond(), meter.remainingSeconds()]).toEqual([0, undefined]);
  for (const milliseconds of [9000, 500, 500]) {
    time += milliseconds;
    meter.step(100);
  }
  expect([meter.tokensPerSecond(), meter.remainingSeconds(), meter.steps, meter.tokens]).toEqual([
    200, 3.5, 13, 300,
  ]);
  expect([0, 59.6, 185, 3725].map(formatDuration)).toEqual(["0s", "1m 00s", "3m 05s", "1h 02m"]);
});
