import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { TunesmithError } from "../../errors/index.js";
import {
  adam,
  adamw,
  applyUpdates,
  copyParams,
  cosine,
  flattenOptimizerState,
  loraPlusGroups,
  type Optimizer,
  type Params,
  restoreOptimizerState,
  restoreParams,
  sgd,
} from "./index.js";

const fixture = JSON.parse(readFileSync("fixtures/optim.json", "utf8")) as {
  steps: number;
  start: Record<string, number[]>;
  noise: Record<string, number[][]>;
  final: Record<string, Record<string, number[]>>;
};

const optimizers: Record<string, () => Optimizer> = {
  adamw: () => adamw({ lr: 0.01 }),
  "adamw-decay": () => adamw({ lr: 0.02, weightDecay: 0.1, betas: [0.8, 0.95], eps: 1e-6 }),
  "adamw-amsgrad": () => adamw({ lr: 0.01, amsgrad: true }),
  adam: () => adam({ lr: 0.01 }),
  "adam-l2": () => adam({ lr: 0.01, weightDecay: 0.1 }),
  sgd: () => sgd({ lr: 0.05 }),
  "sgd-momentum": () => sgd({ lr: 0.05, momentum: 0.9, weightDecay: 0.01 }),
  "sgd-nesterov": () => sgd({ lr: 0.05, momentum: 0.9, nesterov: true, weightDecay: 0.01 }),
  "adamw-clip-cosine": () =>
    adamw({ lr: 0.05, maxGradNorm: 0.7, schedule: cosine({ totalSteps: 20, warmupSteps: 4 }) }),
  "adamw-lora-plus": () =>
    adamw({
      lr: 0.01,
      groups: [{ match: "lora_B", lrMultiplier: 16, weightDecay: 0 }, ...loraPlusGroups(16)],
    }),
};

function start(): Map<string, Float32Array> {
  return new Map(Object.entries(fixture.start).map(([name, values]) => [name, Float32Array.from(values)]));
}

function gradsAt(params: Params, step: number): Map<string, Float32Array> {
  return new Map(
    [...params].map(([name, data]) => {
      const noise = Float32Array.from(fixture.noise[name]?.[step - 1] ?? []);
      return [name, data.map((value, i) => Math.fround(0.5 * value) + (noise[i] ?? Number.NaN))];
    }),
  );
}

type StepForm = (optimizer: Optimizer, ...args: Parameters<Optimizer["step"]>) => void;
const fused: StepForm = (optimizer, ...args) => optimizer.step(...args);
const composed: StepForm = (optimizer, params, grads, state, context) =>
  applyUpdates(params, optimizer.transform.update(grads, state, params, context));

function run(optimizer: Optimizer, form: StepForm): Map<string, Float32Array> {
  const params = start();
  const state = optimizer.init(params);
  for (let step = 1; step <= fixture.steps; step++)
    form(optimizer, params, gradsAt(params, step), state, { step });
  return params;
}

test.each(Object.keys(optimizers))("%s equals torch over 20 updates", (name) => {
  const expected = fixture.final[name];
  const params = run(optimizers[name]?.() as Optimizer, fused);
  expect(Object.keys(expected ?? {})).toEqual([...params.keys()]);
  for (const [key, data] of params) {
    data.forEach((value, i) => {
      const want = expected?.[key]?.[i] ?? Number.NaN;
      expect(Math.abs(value - want)).toBeLessThan(1e-6 * Math.max(1, Math.abs(want)));
    });
  }
});

test.each(Object.keys(optimizers))("%s: the fused update equals the composed one", (name) => {
  const optimizer = optimizers[name]?.() as Optimizer;
  const expected = run(optimizer, composed);
  for (const [key, data] of run(optimizer, fused)) {
    data.forEach((value, i) => {
      const want = expected.get(key)?.[i] ?? Number.NaN;
      expect(Math.abs(value - want)).toBeLessThan(1e-6 * Math.max(0.1, Math.abs(want)));
    });
  }
});

test.each(Object.keys(optimizers))("%s: state saved and restored mid-run gives the same bits", (name) => {
  const uninterrupted = run(optimizers[name]?.() as Optimizer, fused);
  const first = optimizers[name]?.() as Optimizer;
  const params = start();
  const state = first.init(params);
  for (let step = 1; step <= 7; step++) first.step(params, gradsAt(params, step), state, { step });
  const flat = flattenOptimizerState(state);
  const stored = { tensors: copyParams(flat.tensors), scalars: { ...flat.scalars } };
  const resumed = start();
  restoreParams(resumed, copyParams(params));
  const second = optimizers[name]?.() as Optimizer;
  const secondState = second.init(resumed);
  restoreOptimizerState(secondState, stored);
  for (let step = 8; step <= fixture.steps; step++) {
    second.step(resumed, gradsAt(resumed, step), secondState, { step });
  }
  expect(resumed).toEqual(uninterrupted);
});

test("a parameter without gradient is left alone", () => {
  const optimizer = adamw({ lr: 0.1 });
  const params = start();
  const before = copyParams(params);
  const state = optimizer.init(params);
  const grads = gradsAt(params, 1);
  grads.delete("layer.lora_A.weight");
  optimizer.step(params, grads, state, { step: 1 });
  expect(params.get("layer.lora_A.weight")).toEqual(before.get("layer.lora_A.weight"));
  expect(params.get("layer.lora_B.weight")).not.toEqual(before.get("layer.lora_B.weight"));
});

test("the global norm before clipping is in the state", () => {
  const optimizer = sgd({ lr: 1, maxGradNorm: 1 });
  const params = new Map([["w", Float32Array.of(0, 0, 0)]]);
  const state = optimizer.init(params);
  optimizer.step(params, new Map([["w", Float32Array.of(3, 0, 4)]]), state, { step: 1 });
  expect(state.inner[0]?.scalars.norm).toBe(5);
  expect([...(params.get("w") ?? [])].map((x) => Number(x.toFixed(5)))).toEqual([-0.6, 0, -0.8]);
});

test("groups: first match applies, unmatched groups are errors", () => {
  const params = new Map([
    ["l.lora_A.weight", Float32Array.of(1)],
    ["l.lora_B.weight", Float32Array.of(1)],
    ["l.bias", Float32Array.of(1)],
  ]);
  const optimizer = sgd({ lr: 0.01, groups: loraPlusGroups(8) });
  const ones = new Map([...params].map(([name]) => [name, Float32Array.of(1)]));
  optimizer.step(params, ones, optimizer.init(params), { step: 1 });
  expect(params.get("l.lora_A.weight")?.[0]).toBeCloseTo(0.99, 6);
  expect(params.get("l.lora_B.weight")?.[0]).toBeCloseTo(0.92, 6);
  expect(params.get("l.bias")?.[0]).toBeCloseTo(0.92, 6);
  const misspelt = sgd({ lr: 0.01, groups: [{ match: "lora_C", lr: 1 }] });
  expect(code(() => misspelt.init(params))).toBe("target-not-found");
});

test("bad settings and foreign gradients are typed errors", () => {
  expect(code(() => adamw({ lr: Number.NaN }))).toBe("config-invalid");
  expect(code(() => adamw({ lr: 0.1, betas: [1, 0.9] }))).toBe("config-invalid");
  expect(code(() => sgd({ lr: 0.1, nesterov: true }))).toBe("config-invalid");
  expect(code(() => sgd({ lr: 0.1, groups: [{ match: "(" }] }))).toBe("config-invalid");
  const optimizer = adamw({ lr: 0.1 });
  const params = start();
  const state = optimizer.init(params);
  const step = (name: string, size: number) => () =>
    optimizer.step(params, new Map([[name, new Float32Array(size)]]), state, { step: 1 });
  expect(code(step("elsewhere", 5))).toBe("tensor-not-found");
  expect(code(step("layer.lora_A.weight", 6))).toBe("shape-mismatch");
});

test("restoring another optimiser's state names what differs and writes nothing", () => {
  const params = start();
  const state = adamw({ lr: 0.1 }).init(params);
  const other = flattenOptimizerState(sgd({ lr: 0.1, momentum: 0.9 }).init(params));
  expect(code(() => restoreOptimizerState(state, other))).toBe("checkpoint-mismatch");
  expect(() => restoreOptimizerState(state, other)).toThrow(/missing '0\/mu\/layer.lora_A.weight'/);
  expect(() => restoreParams(params, new Map([["x", new Float32Array(1)]]))).toThrow(/unexpected 'x'/);
});

function code(run: () => unknown): string | undefined {
  try {
    run();
  } catch (error) {
    return error instanceof TunesmithError ? error.code : String(error);
  }
  return undefined;
}
