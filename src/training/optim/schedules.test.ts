import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { createSchedule, type ScheduleConfig } from "./schedules.js";

const { schedules } = JSON.parse(readFileSync("fixtures/optim.json", "utf8")) as {
  schedules: Record<string, number[]>;
};
const total = { totalSteps: 30, warmupSteps: 5 };

const configs: Record<string, ScheduleConfig> = {
  constant: { type: "constant", warmupSteps: 5 },
  linear: { type: "linear", ...total },
  cosine: { type: "cosine", totalSteps: 30, warmupRatio: 0.15 },
  "cosine-no-warmup": { type: "cosine", totalSteps: 30 },
  "cosine-min": { type: "cosine", ...total, cycles: 0.75, minFactor: 0.1 },
  "cosine-with-restarts": { type: "cosine-with-restarts", ...total, cycles: 3 },
  polynomial: { type: "polynomial", ...total, endFactor: 0.05, power: 2 },
  "inverse-sqrt": { type: "inverse-sqrt", warmupSteps: 5 },
  "inverse-sqrt-timescale": { type: "inverse-sqrt", warmupSteps: 5, timescale: 9 },
  wsd: { type: "wsd", ...total, decaySteps: 10 },
  "wsd-1-sqrt": {
    type: "wsd",
    ...total,
    decaySteps: 10,
    warmupType: "1-sqrt",
    decayType: "1-sqrt",
    minFactor: 0.1,
  },
  "wsd-cosine-linear": {
    type: "wsd",
    ...total,
    decaySteps: 10,
    warmupType: "cosine",
    decayType: "linear",
  },
  "one-cycle": { type: "one-cycle", totalSteps: 30 },
  "one-cycle-linear": {
    type: "one-cycle",
    totalSteps: 30,
    warmupRatio: 0.2,
    anneal: "linear",
    divFactor: 10,
    finalDivFactor: 100,
  },
};

test("every reference schedule is compared", () => {
  expect(Object.keys(configs)).toEqual(Object.keys(schedules));
});

test.each(Object.entries(configs))("%s equals the reference at every step", (name, config) => {
  const schedule = createSchedule(config);
  schedules[name]?.forEach((expected, step) => {
    expect(schedule(step), `step ${step}`).toBeCloseTo(expected, 12);
  });
});

test.each<[ScheduleConfig, RegExp]>([
  [{ type: "linear", totalSteps: 0 }, /totalSteps is 0/],
  [{ type: "linear", totalSteps: 3, warmupSteps: 4 }, /exceed totalSteps/],
  [{ type: "linear", totalSteps: 3, warmupSteps: 1, warmupRatio: 0.1 }, /both set/],
  [{ type: "constant", warmupRatio: 0.1 }, /needs totalSteps/],
  [{ type: "wsd", totalSteps: 10, warmupSteps: 6, decaySteps: 5 }, /exceed totalSteps/],
  [{ type: "linear", totalSteps: 3, minFactor: 0.1 } as ScheduleConfig, /linear has no setting 'minFactor'/],
  [{ type: "cosin" } as unknown as ScheduleConfig, /unknown schedule 'cosin'/],
])("%o is refused", (config, message) => {
  expect(() => createSchedule(config)).toThrow(message);
});
