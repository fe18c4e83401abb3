import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { parameter } from "../adapter.js";
import { adalora } from "../index.js";
import type { HookSite } from "../method.js";
import { largestGap } from "../testing/fixtures.js";
import { allocateRanks, rankBudget } from "./rank-allocation.js";

// Written by scripts/reference/make_adalora_fixture.py.
const { sizes, runs } = JSON.parse(
  readFileSync(new URL("./adalora.fixture.json", import.meta.url), "utf8"),
) as {
  sizes: [number, number][];
  runs: { schedule: Record<string, number>; after: number[][][] }[];
};

const PARTS = ["lora_A", "lora_E", "lora_B"];

function runOf(schedule: Record<string, number>) {
  const { config } = adalora({
    initRank: schedule.init_r,
    targetRank: schedule.target_r,
    rankWarmup: schedule.tinit,
    finalSteps: schedule.tfinal,
    interval: schedule.deltaT,
    ...(schedule.beta1 === undefined ? {} : { beta1: schedule.beta1, beta2: schedule.beta2 }),
  });
  const rank = config.initRank;
  const sites = sizes.map(([inFeatures, outFeatures], module): HookSite => {
    const shapes = [
      [rank, inFeatures],
      [rank, 1],
      [outFeatures, rank],
    ] as const;
    const tensors = shapes.map((shape, part) => {
      const data = Float32Array.from(
        { length: shape[0] * shape[1] },
        (_, at) => 0.1 + 0.05 * Math.cos(at + 3 * part + 7 * module),
      );
      return [PARTS[part], parameter(`adapter/${module}.${PARTS[part]}`, shape, data, true)] as const;
    });
    const shape = { path: `maps.${module}`, kind: "linear", inFeatures, outFeatures, hasBias: true } as const;
    return { shape, weightName: "", tensors: Object.fromEntries(tensors), oriented: (gradient) => gradient };
  });
  const params = new Map(
    sites.flatMap(({ tensors }) =>
      Object.values(tensors).map(({ name, tensor }) => [name, tensor.data as Float32Array]),
    ),
  );
  return { context: { name: "adapter", config, sites, shared: {} }, params, sites };
}

/** Gradients of a step, descended on. */
function descend(params: ReadonlyMap<string, Float32Array>, step: number) {
  return new Map(
    [...params].map(([name, data]) => {
      const [module, part] = [Number(name.split("/")[1]?.[0]), PARTS.indexOf(name.slice(-6))];
      const gradient = Float32Array.from(
        data,
        (_, at) => Math.sin(0.37 * (at + 1) * (step + 2) + 5 * part + 11 * module) / 10,
      );
      gradient.forEach((value, at) => {
        data[at] = (data[at] as number) - 0.1 * value;
      });
      return [name, gradient];
    }),
  );
}

describe.each(runs)("$schedule", ({ schedule, after }) => {
  const steps = schedule.total_step as number;

  test("E after every step is PEFT's, also over micro-batches and a checkpoint", async () => {
    const { context, params, sites } = runOf(schedule);
    let hooks = allocateRanks(context);
    for (let step = 1; step <= steps; step++) {
      const at = { step, steps, params, learningRate: 0.1 };
      hooks.beforeUpdate?.(at);
      const halves = new Map(
        [...descend(params, step)].map(([name, all]) => [name, all.map((value) => value / 2)]),
      );
      for (let batch = 0; batch < 2; batch++) await hooks.afterBackward?.(at, halves, new Map());
      await hooks.afterUpdate?.(at);
      const expected = after[step - 1] as number[][];
      sites.forEach(({ tensors }, module) => {
        const e = tensors.lora_E?.tensor.data as Float32Array;
        expect(largestGap(e, expected[module] as number[]), `step ${step}, module ${module}`).toBeLessThan(
          1e-6,
        );
        expect(Array.from(e, (value) => value === 0)).toEqual(expected[module]?.map((value) => value === 0));
      });
      const state = JSON.parse(JSON.stringify(hooks.state?.()));
      hooks = allocateRanks(context);
      hooks.restore?.(state);
    }
    const left = sites
      .flatMap(({ tensors }) => Array.from(tensors.lora_E?.tensor.data as Float32Array))
      .filter((value) => value !== 0);
    expect(left).toHaveLength((schedule.target_r as number) * sizes.length);
  });
});

test("the budget falls as a cubic from the first to the last rank", () => {
  const schedule = { rankWarmup: 10, finalSteps: 20, interval: 5 };
  const at = (step: number) => rankBudget(step, 130, 120, 40, schedule);
  expect(at(10)).toEqual({ budget: 120, chooses: false });
  expect(at(60)).toEqual({ budget: 50, chooses: true });
  expect(at(61).chooses).toBe(false);
  expect(at(110)).toEqual({ budget: 40, chooses: true });
  expect(at(129)).toEqual({ budget: 40, chooses: true });
});

test("a schedule without a step between its ends is refused", () => {
  const { context, params } = runOf({ init_r: 4, target_r: 2, tinit: 5, tfinal: 5, deltaT: 1 });
  const hooks = allocateRanks(context);
  expect(() => hooks.beforeUpdate?.({ step: 1, steps: 10, params, learningRate: 0.1 })).toThrow(
    /leave no step/,
  );
});
