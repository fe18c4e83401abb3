import { expect, test } from "vitest";
import { TunesmithError } from "../../errors/index.js";
import { rng } from "../../runtime/random/index.js";
import { dequantizeByMap, dynamicMap, quantizeByMap } from "../../tensor/index.js";
import {
  adamw,
  clipAdaptive,
  clipByGlobalNorm,
  clipped,
  dadaptAdam,
  ema,
  lamb,
  layerCount,
  layerwiseDecay,
  lookahead,
  newtonSchulz,
  type Optimizer,
  onEvaluationWeights,
  type Params,
  quantizedState,
  sam,
  scheduleFreeSgd,
  sgd,
  swa,
} from "./index.js";

const one = (...values: number[]) => new Map([["w", Float32Array.from(values)]]);
const valuesOf = (params: Params, name = "w") => [...(params.get(name) ?? [])];

/** Steps with a constant gradient of 1. */
function walk(optimizer: Optimizer, steps: number) {
  const params = one(0);
  const state = optimizer.init(params);
  const path: number[] = [];
  for (let step = 1; step <= steps; step++) {
    optimizer.step(params, one(1), state, { step });
    path.push(Number(params.get("w")?.[0]));
  }
  return { params, state, path };
}

test("lookahead: every other step goes back half way", () => {
  const { path } = walk(lookahead(sgd({ lr: 1 }), { every: 2, alpha: 0.5 }), 6);
  expect(path).toEqual([-1, -1, -2, -2, -3, -3]);
});

test("ema and swa: what is averaged, and that training goes on from the trained weights", () => {
  const averaged = ema(sgd({ lr: 1 }), { decay: 0.5, warmup: false });
  const { params, state } = walk(averaged, 2);
  const leave = averaged.enterEvaluation?.(params, state);
  expect(valuesOf(params)).toEqual([-1.25]);
  leave?.();
  expect(valuesOf(params)).toEqual([-2]);
  const warm = ema(sgd({ lr: 1 }), { decay: 0.999 });
  const short = walk(warm, 1);
  warm.enterEvaluation?.(short.params, short.state);
  expect(valuesOf(short.params)[0]).toBeCloseTo(-9 / 11, 6);

  const mean = swa(sgd({ lr: 1 }), { start: 2, every: 2 });
  const early = walk(mean, 1);
  mean.enterEvaluation?.(early.params, early.state);
  expect(valuesOf(early.params)).toEqual([-1]);
  const late = walk(mean, 5);
  mean.enterEvaluation?.(late.params, late.state);
  expect(valuesOf(late.params)).toEqual([-3]);
});

test("evaluation weights are left even when the evaluation fails", async () => {
  const optimizer = scheduleFreeSgd({ lr: 0.5 });
  const { params, state } = walk(optimizer, 3);
  const trained = valuesOf(params);
  const seen = await onEvaluationWeights(optimizer, params, state, async () => valuesOf(params));
  expect(seen).not.toEqual(trained);
  const failing = onEvaluationWeights(optimizer, params, state, () => Promise.reject(new Error("no")));
  await expect(failing).rejects.toThrow("no");
  expect(valuesOf(params)).toEqual(trained);
});

test("sam climbs rho along the gradient, comes back, and steps by the second gradient", () => {
  const optimizer = sam(sgd({ lr: 0.1 }), { rho: 0.5 });
  const params = one(3, 4);
  const state = optimizer.init(params);
  const restore = optimizer.perturb?.(params, one(3, 4), state, { step: 1 });
  expect(valuesOf(params)[0]).toBeCloseTo(3.3, 6);
  expect(valuesOf(params)[1]).toBeCloseTo(4.4, 6);
  expect(state.scalars.norm).toBe(5);
  restore?.();
  expect(valuesOf(params)).toEqual([3, 4]);
  optimizer.step(params, one(10, 0), state, { step: 1 });
  expect(valuesOf(params)).toEqual([2, 4]);
  expect(() => optimizer.step(params, one(1, 1), state, { step: 2 })).toThrow(TunesmithError);
  const adaptive = sam(sgd({ lr: 0.1 }), { rho: 1, adaptive: true });
  const scaled = one(2, 0);
  adaptive.perturb?.(scaled, one(1, 1), adaptive.init(scaled), { step: 1 });
  expect(valuesOf(scaled)).toEqual([4, 0]);
});

test("wrappers pass on what is inside", () => {
  const optimizer = lookahead(sam(ema(dadaptAdam(), { decay: 0.9 }), { rho: 0.1 }));
  const params = one(1, 2);
  const state = optimizer.init(params);
  expect(optimizer.name).toBe("lookahead(sam(ema(dadapt-adam)))");
  optimizer.perturb?.(params, one(1, 1), state, { step: 1 })();
  optimizer.step(params, one(1, 1), state, { step: 1 });
  expect(optimizer.report?.(state, 1)).toEqual({ d: 1e-6, effectiveLr: 1e-6 });
  expect(optimizer.enterEvaluation).toBeDefined();
});

test("clipped clips before any optimiser", () => {
  const optimizer = clipped(dadaptAdam({ d0: 1 }), [clipByGlobalNorm(1)]);
  const [clippedRun, plain] = [one(0, 0), one(0, 0)];
  optimizer.step(clippedRun, one(30, 40), optimizer.init(clippedRun), { step: 1 });
  const small = dadaptAdam({ d0: 1 });
  small.step(plain, one(0.6, 0.8), small.init(plain), { step: 1 });
  expect(valuesOf(clippedRun)[0]).toBeCloseTo(Number(valuesOf(plain)[0]), 6);
});

test("adaptive clipping looks at each row of a matrix, and at a vector as a whole", () => {
  const transform = clipAdaptive(0.1);
  const params = new Map([
    ["m", Float32Array.of(3, 4, 0, 0)],
    ["v", Float32Array.of(6, 8)],
  ]);
  const shapes = new Map([
    ["m", [2, 2]],
    ["v", [2]],
  ]);
  const grads = new Map([
    ["m", Float32Array.of(30, 40, 3, 4)],
    ["v", Float32Array.of(0.3, 0.4)],
  ]);
  transform.update(grads, transform.init(params, shapes), params, { step: 1 });
  const close = (name: string, expected: number[]) =>
    valuesOf(grads, name).forEach((value, i) => {
      expect(value).toBeCloseTo(Number(expected[i]), 7);
    });
  close("m", [0.3, 0.4, 0.00006, 0.00008]);
  close("v", [0.3, 0.4]);
});

test("lamb: the first step has the length of lr times the weights' norm", () => {
  const optimizer = lamb({ lr: 0.1 });
  const params = one(3, 4);
  optimizer.step(params, one(0.2, -7), optimizer.init(params), { step: 1 });
  const moved = [3 - Number(valuesOf(params)[0]), 4 - Number(valuesOf(params)[1])];
  expect(Math.hypot(...moved)).toBeCloseTo(0.5, 5);
  expect(moved[0]).toBeCloseTo(-Number(moved[1]), 5);
});

test("layer-wise decay by depth", () => {
  const scale = layerwiseDecay(0.5, 3);
  expect(["h.2.w", "model.layers.1.q.weight", "h.0.w"].map((name) => scale(`x.${name}`))).toEqual([
    1, 0.5, 0.25,
  ]);
  expect([scale("lm_head.weight"), scale("model.norm.weight"), scale("embed.weight")]).toEqual([1, 1, 0.125]);
  expect(layerCount(["a.0.b", "a.11.b", "c"])).toBe(12);
});

test("a group with rate 0 is frozen and does not enter the estimate", () => {
  const groups = [{ match: "still", lr: 0 }];
  const optimizer = dadaptAdam({ d0: 0.1, groups });
  const params = new Map([...one(1, 2), ["still", Float32Array.of(5)] as const]);
  const state = optimizer.init(params);
  const alone = dadaptAdam({ d0: 0.1 });
  const other = one(1, 2);
  const otherState = alone.init(other);
  for (let step = 1; step <= 5; step++) {
    optimizer.step(params, new Map([...one(1, 2), ["still", Float32Array.of(1e6)] as const]), state, {
      step,
    });
    alone.step(other, one(1, 2), otherState, { step });
  }
  expect(valuesOf(params, "still")).toEqual([5]);
  expect(valuesOf(params)).toEqual(valuesOf(other));
  expect(optimizer.report?.(state, 5)).toEqual(alone.report?.(otherState, 5));
});

test("Newton-Schulz brings all singular values near 1", () => {
  for (const [rows, cols] of [
    [6, 20],
    [20, 6],
  ] as const) {
    const matrix = rng(1, "ns", rows).fillNormal(new Float32Array(rows * cols));
    const x = newtonSchulz(matrix, rows, cols);
    const small = Math.min(rows, cols);
    for (let i = 0; i < small; i++) {
      let square = 0;
      for (let k = 0; k < 20; k++) square += Number(rows < cols ? x[i * cols + k] : x[k * cols + i]) ** 2;
      expect(Math.sqrt(square)).toBeGreaterThan(0.65);
      expect(Math.sqrt(square)).toBeLessThan(1.25);
    }
  }
});

test("8-bit codes: nearest numbers, exact 0 and positive maximum, small relative error", () => {
  const data = rng(1, "8 bit").fillNormal(new Float32Array(1000));
  data[3] = 0;
  const map = dynamicMap(true);
  const [codes, scales, back] = [new Uint8Array(1000), new Float32Array(4), new Float32Array(1000)];
  quantizeByMap(data, map, 256, codes, scales);
  dequantizeByMap(codes, map, 256, scales, back);
  const squares = (values: Float32Array) => values.reduce((sum, value) => sum + value * value, 0);
  expect(squares(data.map((value, i) => value - Number(back[i]))) / squares(data)).toBeLessThan(2e-4);
  expect(back[3]).toBe(0);
  // The signed map ends at 1 and at -0.993.
  expect(Math.max(...back) / Math.max(...data)).toBeCloseTo(1, 1);
  data[7] = 50;
  quantizeByMap(data, map, 256, codes, scales);
  dequantizeByMap(codes, map, 256, scales, back);
  expect(back[7]).toBe(50);
});

test("8-bit AdamW ends where AdamW does", () => {
  const final = (optimizer: Optimizer) => {
    const params = new Map([["w", rng(1, "start").fillNormal(new Float32Array(4096))]]);
    const state = optimizer.init(params);
    for (let step = 1; step <= 300; step++) {
      const grads = new Map([["w", Float32Array.from(params.get("w") ?? [], (value) => value - 1)]]);
      optimizer.step(params, grads, state, { step });
    }
    return params.get("w") as Float32Array;
  };
  const make = () => adamw({ lr: 0.02, weightDecay: 0 });
  const exact = final(make());
  const packed = final(quantizedState(make()));
  const gap = Math.sqrt(exact.reduce((sum, value, i) => sum + (value - Number(packed[i])) ** 2, 0) / 4096);
  expect(gap).toBeLessThan(0.01);
  expect(gap).toBeGreaterThan(0);
});
