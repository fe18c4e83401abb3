import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { TunesmithError } from "../../errors/index.js";
import { rng } from "../../runtime/random/index.js";
import { loadLatest, saveCheckpoint } from "../checkpoint.js";
import {
  copyParams,
  createOptimizer,
  describeOptimizer,
  flattenOptimizerState,
  linear,
  type Optimizer,
  type OptimizerState,
  optimizerNamed,
  optimizerNames,
  optimizerOptions,
  type Params,
  restoreOptimizerState,
  restoreParams,
  stateFactor,
} from "./index.js";

const shapes = new Map<string, readonly number[]>([
  ["model.layers.0.q_proj.lora_A.weight", [3, 16]],
  ["model.layers.1.q_proj.lora_B.weight", [16, 3]],
  ["model.layers.1.norm.weight", [7]],
  ["lm_head.scale", []],
  ["model.layers.1.stack", [2, 3, 4]],
  ["model.layers.1.wide.weight", [64, 64]],
]);

const sizeOf = (name: string) => (shapes.get(name) ?? []).reduce((a, b) => a * b, 1);

/** Normal numbers by name and step; drawn once, since drawing takes longer than updating. */
const known = new Map<string, Float32Array>();
function normals(name: string, step: number): Float32Array {
  const key = `${name} ${step}`;
  const found = known.get(key) ?? rng(step, name).fillNormal(new Float32Array(sizeOf(name)));
  known.set(key, found);
  return found;
}

/** Named arrays as text, which compares fast and by bits. */
const bits = (arrays: ReadonlyMap<string, ArrayBufferView> = new Map()) =>
  [...arrays].map(([name, { buffer, byteOffset, byteLength }]) => {
    return `${name} ${Buffer.from(buffer as ArrayBuffer, byteOffset, byteLength).toString("base64")}`;
  });

const start = (): Map<string, Float32Array> =>
  new Map([...shapes.keys()].map((name) => [name, normals(name, 0).slice()] as const));

function gradsAt(params: Params, step: number): Map<string, Float32Array> {
  return new Map(
    [...params].map(([name, data]) => {
      const noise = normals(name, step);
      return [name, data.map((value, i) => 0.5 * value + (noise[i] as number))] as const;
    }),
  );
}

function advance(
  optimizer: Optimizer,
  params: Params,
  state: OptimizerState,
  from: number,
  to: number,
): void {
  for (let step = from; step <= to; step++) {
    const restore = optimizer.perturb?.(params, gradsAt(params, step), state, { step });
    const grads = gradsAt(params, step);
    restore?.();
    optimizer.step(params, grads, state, { step });
  }
}

const context = {
  schedule: linear({ totalSteps: 8, warmupSteps: 2 }),
  totalSteps: 8,
  names: [...shapes.keys()],
};
const all = { parameterGroups: [{ match: "lm_head", lrMultiplier: 0.5, schedule: { type: "cosine" } }] };
const cases: Record<string, [string, Record<string, unknown>]> = {
  ...Object.fromEntries(optimizerNames.map((name) => [name, [name, { weightDecay: 0.01 }]])),
  "adamw, amsgrad and groups": ["adamw", { amsgrad: true, loraPlus: 16, layerDecay: 0.8, ...all }],
  "adamw, every clip": ["adamw", { maxGradNorm: 0.5, clipValue: 0.4, adaptiveClip: 0.05 }],
  "adamw, 8 bits": ["adamw", { stateBits: 8, maxGradNorm: 1, loraPlus: 4 }],
  "lion, 8 bits": ["lion", { stateBits: 8 }],
  "sgd, momentum and 8 bits": ["sgd", { momentum: 0.9, nesterov: true, stateBits: 8 }],
  "sgd, lookahead": ["sgd", { lookaheadEvery: 2 }],
  "adamw, sam and ema": ["adamw", { samRho: 0.05, emaDecay: 0.9 }],
  "adamw, asam and swa": ["adamw", { samRho: 0.5, samAdaptive: true, swaStart: 2, swaEvery: 2 }],
  "rmsprop, all of it": ["rmsprop", { momentum: 0.9, centered: true, emaDecay: 0.9 }],
  "adafactor, first moment": ["adafactor", { beta1: 0.9, relativeStep: false, lr: 1e-2 }],
  "adafactor, not factored": ["adafactor", { factored: false }],
  "prodigy, sliced": ["prodigy", { estimateEvery: 3, d0: 1e-2, safeguardWarmup: true }],
  "dadapt-sgd, momentum": ["dadapt-sgd", { momentum: 0.9, d0: 1e-2, samRho: 0.01 }],
};

const make = (name: string): Optimizer => {
  const [optimizer, options] = cases[name] ?? ["", {}];
  return createOptimizer(optimizer, options, context);
};

let folder = "";
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), "tunesmith-optimizers-"));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Through a checkpoint's files where the kind of state is a new one; the others through copies and JSON. */
async function serialised(name: string, params: Params, state: OptimizerState) {
  const { tensors, scalars, bytes } = flattenOptimizerState(state);
  if (!["adamw, 8 bits", "adafactor", "prodigy, sliced"].includes(name)) {
    const codes = new Map([...(bytes ?? [])].map(([key, data]) => [key, data.slice()] as const));
    const optimizer = {
      tensors: copyParams(tensors),
      scalars: JSON.parse(JSON.stringify(scalars)) as Record<string, number>,
      bytes: codes,
    };
    return { params: copyParams(params), optimizer };
  }
  const config = { optimizer: name };
  const run = join(folder, name.replaceAll(/\W+/g, "-"));
  await saveCheckpoint(run, { state: { step: 3, epoch: 0 }, params, shapes, optimizer: state, config });
  const { checkpoint } = await loadLatest(run, { config });
  if (!checkpoint) throw new Error("no checkpoint");
  return checkpoint;
}

test.each(Object.keys(cases))(
  "%s: 3 updates, a checkpoint and 4 more are 7 updates, bit for bit",
  async (name) => {
    const whole = start();
    const wholeState = make(name).init(whole, shapes);
    advance(make(name), whole, wholeState, 1, 7);
    for (const data of whole.values()) expect(data.every(Number.isFinite)).toBe(true);
    expect(bits(whole)).not.toEqual(bits(start()));

    const first = make(name);
    const params = start();
    const state = first.init(params, shapes);
    advance(first, params, state, 1, 3);
    const stored = await serialised(name, params, state);
    const second = make(name);
    const resumed = start();
    restoreParams(resumed, stored.params);
    const resumedState = second.init(start(), shapes);
    restoreOptimizerState(resumedState, stored.optimizer);
    advance(second, resumed, resumedState, 4, 7);
    expect(resumed).toEqual(whole);
    expect(flattenOptimizerState(resumedState)).toEqual(flattenOptimizerState(wholeState));
    expect(second.report?.(resumedState, 7)).toEqual(first.report?.(wholeState, 7));

    const trained = bits(resumed);
    const leaveResumed = second.enterEvaluation?.(resumed, resumedState);
    const leaveWhole = first.enterEvaluation?.(whole, wholeState);
    expect(resumed).toEqual(whole);
    leaveResumed?.();
    leaveWhole?.();
    expect(bits(resumed)).toEqual(trained);
  },
);

test.each(Object.keys(cases))("%s: the transformation gives what the step does", (name) => {
  const optimizer = make(name);
  const [params, moved] = [start(), start()];
  const [state, other] = [optimizer.init(params, shapes), optimizer.init(moved, shapes)];
  advance(optimizer, params, state, 1, 2);
  advance(optimizer, moved, other, 1, 2);
  const restore = optimizer.perturb?.(params, gradsAt(params, 3), state, { step: 3 });
  restore?.();
  optimizer.perturb?.(moved, gradsAt(moved, 3), other, { step: 3 })();
  const updates = optimizer.transform.update(gradsAt(params, 3), state, params, { step: 3 });
  optimizer.step(moved, gradsAt(moved, 3), other, { step: 3 });
  for (const [key, data] of moved) {
    const [before, update] = [params.get(key), updates.get(key)];
    const gaps = data.map((value, i) => {
      const sum = Number(before?.[i]) + Number(update?.[i]);
      return Math.abs(value - sum) / Math.max(1, Math.abs(sum));
    });
    expect(Math.max(...gaps)).toBeLessThan(2e-6);
  }
});

test("every optimiser has a summary, described options and defaults that it accepts", () => {
  for (const name of optimizerNames) {
    const { summary, options } = describeOptimizer(optimizerNamed(name));
    expect(summary.length).toBeGreaterThan(10);
    for (const [key, option] of Object.entries(options))
      expect((option as { description?: string }).description, `${name}.${key}`).toBeTruthy();
    expect(createOptimizer(name).init(start(), shapes)).toBeDefined();
    expect(Object.keys(optimizerOptions(name).shape)).toContain("emaDecay");
  }
});

test("floats of state per weight", () => {
  const factor = (name: string, options = {}) => stateFactor(createOptimizer(name, options));
  expect(factor("sgd")).toBe(0);
  expect(factor("adamw")).toBe(2);
  expect(factor("lion")).toBe(1);
  expect(factor("adafactor")).toBeLessThan(0.1);
  expect(factor("adamw", { stateBits: 8 })).toBeLessThan(0.55);
  expect(factor("sgd", { emaDecay: 0.9 })).toBe(1);
  const groups = { loraPlus: 4, parameterGroups: [{ match: "elsewhere", lr: 1 }], maxGradNorm: 1 };
  expect(factor("adamw", { ...groups, emaDecay: 0.9 })).toBe(3);
  expect(factor("adamw", { ...groups, stateBits: 8 })).toBeLessThan(0.55);
});

test("groups, layer decay and LoRA+ come together in the learning rates", () => {
  const options = { lr: 0.1, loraPlus: 10, layerDecay: 0.5, weightDecay: 0 };
  const optimizer = createOptimizer("sgd", options, { names: [...shapes.keys()] });
  const params = start();
  const ones = new Map([...params].map(([name, data]) => [name, data.map(() => 1)]));
  const moved = start();
  optimizer.step(moved, ones, optimizer.init(moved, shapes), { step: 1 });
  const rate = (name: string) => Number(params.get(name)?.[0]) - Number(moved.get(name)?.[0]);
  expect(rate("model.layers.0.q_proj.lora_A.weight")).toBeCloseTo(0.05, 6);
  expect(rate("model.layers.1.q_proj.lora_B.weight")).toBeCloseTo(1, 6);
  expect(rate("model.layers.1.norm.weight")).toBeCloseTo(0.1, 6);
  expect(rate("lm_head.scale")).toBeCloseTo(0.1, 6);
});

test("biases and norms do not decay unless asked", () => {
  const decayed = (options: object) => {
    const optimizer = createOptimizer("adamw", { lr: 0.1, weightDecay: 0.5, ...options });
    const params = start();
    const zeros = new Map([...params].map(([name, data]) => [name, new Float32Array(data.length)]));
    optimizer.step(params, zeros, optimizer.init(params, shapes), { step: 1 });
    const before = start();
    return [...params].filter(([name, data]) => data[0] !== before.get(name)?.[0]).map(([name]) => name);
  };
  expect(decayed({})).not.toContain("model.layers.1.norm.weight");
  expect(decayed({})).toContain("model.layers.1.wide.weight");
  expect(decayed({ decayAll: true })).toEqual([...shapes.keys()]);
});

const code = (run: () => unknown): string => {
  try {
    run();
  } catch (error) {
    return error instanceof TunesmithError ? `${error.code}: ${error.message}` : String(error);
  }
  return "nothing";
};

test("what cannot be is refused", () => {
  const init = (name: string, options: object, given: typeof shapes | undefined = shapes) =>
    code(() => createOptimizer(name, { ...options }).init(start(), given));
  expect(code(() => createOptimizer("adamv"))).toMatch(/config-invalid: unknown optimiser 'adamv'/);
  expect(init("adamw", { lr: -1 })).toMatch(/config-invalid: adamw: lr/);
  expect(init("adamw", { momentum: 0.9 })).toMatch(/config-invalid: adamw/);
  expect(init("adamw", { emaDecay: 0.9, swaStart: 3 })).toMatch(/emaDecay and swaStart/);
  expect(init("adamw", { lookaheadAlpha: 0.3 })).toMatch(
    /lookaheadAlpha does nothing without lookaheadEvery/,
  );
  expect(code(() => createOptimizer("adamw", { swaStart: 9 }, { totalSteps: 8 }))).toMatch(
    /after the last of 8/,
  );
  expect(init("schedule-free-adamw", { emaDecay: 0.9 })).toMatch(/averages its weights itself/);
  expect(init("adamw", { layerDecay: 0.9 })).toMatch(/layerDecay/);
  for (const name of ["dadapt-adam", "prodigy", "adafactor", "muon", "nadam", "schedule-free-sgd"])
    expect(init(name, { stateBits: 8 }), name).toMatch(/cannot be kept in 8 bits/);
  expect(code(() => createOptimizer("muon").init(start()))).toMatch(/config-invalid: muon needs the shape/);
  expect(init("adafactor", { relativeStep: false })).toMatch(/needs lr/);
  expect(init("dadapt-sgd", { loraPlus: 4 })).toMatch(/does not take a learning rate of its own/);
  const wrong = new Map([...shapes, ["lm_head.scale", [2]]] as [string, number[]][]);
  expect(init("muon", {}, wrong)).toMatch(/shape-mismatch/);
});
