import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { dynamicMap } from "../../tensor/index.js";
import {
  adafactor,
  adagrad,
  cosine,
  dadaptAdagrad,
  dadaptAdam,
  dadaptAdan,
  dadaptLion,
  dadaptSgd,
  ema,
  lion,
  muon,
  nadam,
  type Optimizer,
  prodigy,
  rmsprop,
  scheduleFreeAdamw,
  scheduleFreeSgd,
  sgd,
  swa,
} from "./index.js";

type Numbers = Record<string, number[]>;

const fixture = JSON.parse(readFileSync("fixtures/optimizers.json", "utf8")) as {
  steps: number;
  shapes: Record<string, number[]>;
  start: Numbers;
  noise: Record<string, number[][]>;
  cases: Record<string, { final?: Numbers; evaluation?: Numbers; d?: number }>;
  dynamicMaps: { signed: number[]; unsigned: number[] };
};

const shapes = new Map(Object.entries(fixture.shapes));
const schedule = cosine({ totalSteps: fixture.steps });

/** Each with the tolerance of its numbers: the references sum in float32, and estimates multiply such errors. */
const optimizers: Record<string, [Optimizer, number]> = {
  lion: [lion({ lr: 0.01, weightDecay: 0.1 }), 1e-6],
  "lion-betas": [lion({ lr: 0.003, betas: [0.8, 0.95] }), 1e-6],
  rmsprop: [rmsprop({ lr: 0.01 }), 1e-6],
  "rmsprop-full": [
    rmsprop({ lr: 0.01, smoothing: 0.9, eps: 1e-6, weightDecay: 0.05, momentum: 0.8, centered: true }),
    2e-6,
  ],
  adagrad: [adagrad({ lr: 0.1 }), 1e-6],
  "adagrad-start": [adagrad({ lr: 0.1, start: 0.1, weightDecay: 0.05 }), 1e-6],
  nadam: [nadam({ lr: 0.01, weightDecay: 0.05 }), 2e-6],
  adafactor: [adafactor(), 1e-6],
  "adafactor-lr": [
    adafactor({
      lr: 0.02,
      relativeStep: false,
      scaleParameter: false,
      weightDecay: 0.05,
      beta1: 0.9,
      clipThreshold: 0.5,
    }),
    1e-6,
  ],
  "adafactor-warmup": [adafactor({ warmupInit: true }), 1e-6],
  "adafactor-torch": [adafactor(), 1e-6],
  muon: [muon({ lr: 0.02, weightDecay: 0.1, matrixScale: "original" }), 5e-6],
  "muon-rms": [muon({ lr: 0.02, weightDecay: 0.1, nesterov: false, iterations: 3 }), 5e-6],
  "muon-spectral": [muon({ lr: 0.02, weightDecay: 0.1, matrixScale: "spectral", momentum: 0.8 }), 5e-6],
  "schedule-free-adamw": [scheduleFreeAdamw({ lr: 0.02, weightDecay: 0.05 }), 2e-6],
  "schedule-free-adamw-power": [
    scheduleFreeAdamw({ lr: 0.02, betas: [0.8, 0.95], power: 1, lrPower: 1 }),
    2e-6,
  ],
  "schedule-free-sgd": [scheduleFreeSgd({ lr: 0.1, weightDecay: 0.05 }), 2e-6],
  "dadapt-sgd": [dadaptSgd(), 1e-5],
  "dadapt-sgd-full": [dadaptSgd({ momentum: 0.9, weightDecay: 0.05, d0: 1e-3, growthRate: 1.5 }), 1e-5],
  "dadapt-adam": [dadaptAdam(), 1e-5],
  "dadapt-adam-full": [
    dadaptAdam({
      d0: 1e-3,
      weightDecay: 0.05,
      decouple: true,
      biasCorrection: true,
      betas: [0.8, 0.95],
      schedule,
    }),
    1e-5,
  ],
  "dadapt-adam-coupled": [dadaptAdam({ d0: 1e-3, weightDecay: 0.05, growthRate: 1.1 }), 1e-5],
  "dadapt-lion": [dadaptLion({ d0: 1e-3, weightDecay: 0.05 }), 1e-5],
  "dadapt-adagrad": [dadaptAdagrad({ d0: 1e-3 }), 1e-5],
  "dadapt-adagrad-full": [dadaptAdagrad({ d0: 1e-3, momentum: 0.5, weightDecay: 0.05 }), 1e-5],
  "dadapt-adan": [dadaptAdan({ d0: 1e-3 }), 1e-5],
  prodigy: [prodigy(), 1e-5],
  "prodigy-full": [
    prodigy({
      d0: 1e-3,
      weightDecay: 0.05,
      biasCorrection: true,
      safeguardWarmup: true,
      every: 2,
      dCoefficient: 2,
      schedule,
    }),
    1e-5,
  ],
  "prodigy-coupled": [
    prodigy({ weightDecay: 0.05, decouple: false, growthRate: 1.5, betas: [0.9, 0.99] }),
    1e-5,
  ],
  ema: [ema(sgd({ lr: 0.1 }), { decay: 0.9, warmup: false }), 1e-6],
  swa: [swa(sgd({ lr: 0.1 }), { start: 10, every: 3 }), 1e-6],
};

test("every case of the fixture is compared", () => {
  expect(Object.keys(optimizers).sort()).toEqual(Object.keys(fixture.cases).sort());
});

test.each(Object.entries(optimizers))("%s equals its reference", (name, [optimizer, tolerance]) => {
  const { final, evaluation, d } = fixture.cases[name] ?? {};
  const names = Object.keys(final ?? evaluation ?? {});
  const params = new Map(names.map((key) => [key, Float32Array.from(fixture.start[key] ?? [])] as const));
  const state = optimizer.init(params, shapes);
  for (let step = 1; step <= fixture.steps; step++) {
    const grads = new Map(
      [...params].map(([key, data]) => {
        const noise = Float32Array.from(fixture.noise[key]?.[step - 1] ?? []);
        return [key, data.map((value, i) => Math.fround(0.5 * value) + (noise[i] ?? Number.NaN))] as const;
      }),
    );
    optimizer.step(params, grads, state, { step });
  }
  const gap = (expected: Numbers) =>
    Math.max(
      ...names.flatMap((key) =>
        (expected[key] ?? [Number.NaN]).map(
          (want, i) => Math.abs((params.get(key)?.[i] ?? Number.NaN) - want) / Math.max(1, Math.abs(want)),
        ),
      ),
    );
  if (final) expect(gap(final)).toBeLessThan(tolerance);
  if (d !== undefined) {
    const found = optimizer.report?.(state, fixture.steps).d ?? Number.NaN;
    expect(Math.abs(found / d - 1)).toBeLessThan(tolerance);
  }
  const trained = new Map([...params].map(([key, data]) => [key, data.slice()]));
  const leave = optimizer.enterEvaluation?.(params, state);
  if (evaluation) expect(gap(evaluation)).toBeLessThan(tolerance);
  leave?.();
  expect(params).toEqual(trained);
});

test("the dynamic maps are bitsandbytes'", () => {
  for (const [kind, expected] of Object.entries(fixture.dynamicMaps)) {
    const map = dynamicMap(kind === "signed");
    expect(map.length).toBe(256);
    map.forEach((value, i) => {
      expect(Math.abs(value - (expected[i] ?? Number.NaN))).toBeLessThanOrEqual(2e-7 * Math.abs(value));
    });
  }
});
