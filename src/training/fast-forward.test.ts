import { expect, test } from "vitest";
import { TunesmithError } from "../errors/index.js";
import { type FastForwardOptions, type FastForwardStage, fastForward } from "./fast-forward.js";
import { adamw, copyParams, flattenOptimizerState, type Optimizer, type Params, sgd } from "./optim/index.js";

/** Loss |w - 1|² h / 2 of each coordinate; "frozen" has no gradient. */
const CURVATURE = [1, 0.5, 0.1];
const start = () =>
  new Map([
    ["w", Float32Array.of(3, -2, 5)],
    ["frozen", Float32Array.of(7, 8)],
  ]);
const errors = (params: Params) => [...(params.get("w") ?? [])].map((w) => w - 1);
const lossOf = (params: Params) =>
  errors(params).reduce((sum, e, i) => sum + (Number(CURVATURE[i]) * e * e) / 2, 0);
const gradsOf = (params: Params) =>
  new Map([["w", Float32Array.from(errors(params), (e, i) => e * Number(CURVATURE[i]))]]);

async function run(
  optimizer: Optimizer,
  options: FastForwardOptions,
  steps: number,
  params: Params = start(),
) {
  const state = optimizer.init(params);
  const phase = fastForward(options);
  const stages: FastForwardStage[] = [];
  const moments: unknown[] = [];
  for (let step = 1; step <= steps; step++) {
    phase.beforeUpdate(step, params);
    optimizer.step(params, gradsOf(params), state, { step });
    const before = copyParams(flattenOptimizerState(state).tensors);
    const stage = await phase.afterUpdate(step, params, async () => lossOf(params));
    moments.push([before, copyParams(flattenOptimizerState(state).tensors)]);
    if (stage) stages.push(stage);
  }
  return { params, state, stages, phase, moments };
}

/** One coordinate: the increment is -lr e, and the solution lies (1 - lr) / lr = 9 increments ahead. */
async function oneDimensional(options: FastForwardOptions) {
  const params = new Map([["w", Float32Array.of(3)]]);
  const optimizer = sgd({ lr: 0.1 });
  const phase = fastForward({ interval: 1, burnIn: 1, ...options });
  phase.beforeUpdate(1, params);
  optimizer.step(params, new Map([["w", Float32Array.of(2)]]), optimizer.init(params), { step: 1 });
  const theta = Number(params.get("w")?.[0]);
  const stage = await phase.afterUpdate(1, params, async () => (Number(params.get("w")?.[0]) - 1) ** 2);
  return { stage, theta, w: Number(params.get("w")?.[0]) };
}

test("linear: stops at the first worse trial and stays there, as the paper's code", async () => {
  const { stage, theta, w } = await oneDimensional({});
  expect(stage).toMatchObject({ step: 1, tau: 10, trials: 10, valBefore: undefined });
  expect(stage?.taus).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
  const losses = stage?.losses ?? [];
  for (let at = 1; at < 9; at++) expect(losses[at]).toBeLessThan(Number(losses[at - 1]));
  expect(losses[9]).toBeGreaterThan(Number(losses[8]));
  expect(w).toBe(Math.fround(theta + 10 * Math.fround(theta - 3)));
});

test("revert keeps the best; geometric growth finds it with fewer trials", async () => {
  const linear = await oneDimensional({ revert: true });
  expect(linear.stage).toMatchObject({ tau: 9, trials: 10 });
  expect(linear.w).toBeCloseTo(1, 6);
  const geometric = await oneDimensional({ growth: "geometric" });
  expect(geometric.stage?.tau).toBe(9);
  expect(geometric.stage?.trials).toBeLessThan(10);
  expect(geometric.stage?.valAfter).toBe(linear.stage?.valAfter);
});

test("revert never ends worse than it began, and puts the same bits back when nothing helps", async () => {
  const params = new Map([["w", Float32Array.of(3)]]);
  for (const growth of ["linear", "geometric"] as const) {
    const phase = fastForward({ interval: 1, burnIn: 1, revert: true, growth });
    phase.beforeUpdate(1, params);
    params.get("w")?.fill(1.1);
    const stage = await phase.afterUpdate(1, params, async () =>
      Math.abs(Number(params.get("w")?.[0]) - 1.1),
    );
    expect(stage).toMatchObject({ tau: 0, trials: 1 });
    expect(params.get("w")).toEqual(Float32Array.of(1.1));
    params.get("w")?.fill(3);
  }
});

test("a loss that is not finite is never kept", async () => {
  const params = new Map([["w", Float32Array.of(3)]]);
  const phase = fastForward({ interval: 1, burnIn: 1 });
  phase.beforeUpdate(1, params);
  params.get("w")?.fill(2);
  const losses = [0.5, 0.4, Number.NaN];
  const stage = await phase.afterUpdate(1, params, async () => losses.shift() as number);
  expect(stage).toMatchObject({ tau: 2, trials: 3, valAfter: 0.4 });
  expect(params.get("w")).toEqual(Float32Array.of(0));
});

test("maxTrials 0 is the optimiser alone, bit for bit", async () => {
  const { params, stages } = await run(adamw({ lr: 0.1 }), { maxTrials: 0 }, 20);
  const plain = start();
  const optimizer = adamw({ lr: 0.1 });
  const state = optimizer.init(plain);
  for (let step = 1; step <= 20; step++) optimizer.step(plain, gradsOf(plain), state, { step });
  expect(params).toEqual(plain);
  expect(stages).toEqual([]);
});

test("stages come after burn-in and every interval; moments and frozen tensors stay as they are", async () => {
  const { params, stages, moments } = await run(
    adamw({ lr: 0.05, weightDecay: 0 }),
    { burnIn: 4, interval: 6 },
    22,
  );
  expect(stages.map(({ step }) => step)).toEqual([4, 10, 16, 22]);
  for (const [before, after] of moments as [unknown, unknown][]) expect(after).toEqual(before);
  expect(params.get("frozen")).toEqual(start().get("frozen"));
});

test("it reaches a loss with far fewer FLOPs than the optimiser alone", async () => {
  const flops = { batchForward: 100, validationForward: 50 };
  const { params, phase } = await run(sgd({ lr: 0.05 }), { flops, revert: true }, 48);
  const { trainFlops, trialFlops, updateFlops, updates, trials } = phase.report();
  expect(trainFlops).toBe(48 * 300);
  expect(updates).toBe(48);
  expect(updateFlops).toBe(trials * 5);
  const plain = start();
  const optimizer = sgd({ lr: 0.05 });
  const state = optimizer.init(plain);
  let steps = 0;
  while (lossOf(plain) > lossOf(params)) optimizer.step(plain, gradsOf(plain), state, { step: ++steps });
  expect(trainFlops + trialFlops + updateFlops).toBeLessThan(0.6 * 300 * steps);
});

test("adaptive intervals stretch while stages gain little, and shrink again", async () => {
  const phase = fastForward({ interval: 2, burnIn: 2, revert: true, adaptive: true });
  const params = new Map([["w", Float32Array.of(0)]]);
  const due: number[] = [];
  for (let step = 1; step <= 40; step++) {
    phase.beforeUpdate(step, params);
    params.get("w")?.fill(step);
    const helps = step >= 20;
    const target = helps ? step + 3 : step;
    const stage = await phase.afterUpdate(step, params, async () =>
      Math.abs(Number(params.get("w")?.[0]) - target),
    );
    if (stage) due.push(step);
  }
  expect(due).toEqual([2, 6, 14, 30, 32, 34, 36, 38, 40]);
});

test("state and restore continue where a run was", async () => {
  const optimizer = adamw({ lr: 0.05 });
  const whole = await run(optimizer, { adaptive: true, revert: true }, 20);
  const first = await run(optimizer, { adaptive: true, revert: true }, 13);
  const phase = fastForward({ adaptive: true, revert: true });
  phase.restore(JSON.parse(JSON.stringify(first.phase.state())));
  for (let step = 14; step <= 20; step++) {
    phase.beforeUpdate(step, first.params);
    optimizer.step(first.params, gradsOf(first.params), first.state, { step });
    await phase.afterUpdate(step, first.params, async () => lossOf(first.params));
  }
  expect(first.params).toEqual(whole.params);
  expect(phase.report()).toEqual(whole.phase.report());
});

test("settings out of range are typed errors", () => {
  for (const options of [{ interval: 0 }, { maxTrials: -1 }, { patience: 0.5 }])
    expect(() => fastForward(options)).toThrow(TunesmithError);
});
