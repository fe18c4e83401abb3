import { expect, test } from "vitest";
import { earlyStopping } from "./early-stopping.js";
import { checkFinite, zeroUpdateGuard } from "./guards.js";

const vector = (...values: number[]) => Float32Array.from(values);

test("checkFinite returns the norm, or names the first bad tensor", () => {
  const good = new Map([["a", vector(3, 4)]]);
  expect(checkFinite({ step: 1, loss: 1, grads: good })).toBe(5);
  const bad = new Map([...good, ["b", vector(0, Number.NaN)], ["c", vector(Number.POSITIVE_INFINITY)]]);
  expect(() => checkFinite({ step: 7, loss: 1, grads: bad })).toThrow(
    expect.objectContaining({
      code: "loss-not-finite",
      message: expect.stringMatching(/step 7: the gradient of 'b' is NaN at index 1/),
      details: { step: 7, loss: 1, name: "b", index: 1, value: Number.NaN },
    }),
  );
  expect(() => checkFinite({ step: 2, loss: Number.NaN, grads: good })).toThrow(/step 2: the loss is NaN/);
});

test("squares too large for float32 are finite all the same", () => {
  expect(checkFinite({ step: 1, loss: 1, grads: new Map([["a", vector(3e38, 3e38)]]) })).toBeGreaterThan(
    4e38,
  );
});

function loraSteps(
  guard: ReturnType<typeof zeroUpdateGuard>,
  gradA: (step: number) => number,
  steps: number,
) {
  for (let step = 1; step <= steps; step++) {
    guard.checkGrads(
      step,
      new Map([
        ["A", vector(gradA(step))],
        ["B", vector(1)],
      ]),
    );
  }
}

test("LoRA's zero gradient of A at step 1 passes; zeros for `patience` steps do not", () => {
  const params = new Map([
    ["A", vector(1)],
    ["B", vector(0)],
  ]);
  loraSteps(zeroUpdateGuard(params, { patience: 3 }), (step) => (step === 1 ? 0 : 0.1), 20);
  loraSteps(zeroUpdateGuard(params, { patience: 3 }), (step) => (step % 3 === 0 ? 0.1 : 0), 20);
  loraSteps(zeroUpdateGuard(params, { patience: 3, mayBeZero: (name) => name === "A" }), () => 0, 20);
  const guard = zeroUpdateGuard(params, { patience: 3 });
  loraSteps(guard, () => 0, 2);
  expect(guard.state()).toEqual({ zeroSteps: { A: 2 } });
  expect(() => loraSteps(guard, () => -0, 1)).toThrow(
    expect.objectContaining({ code: "zero-update", details: { step: 1, names: ["A"] } }),
  );
});

test("of a group, some may go without gradient for ever, all may not; what is of none may not", () => {
  const params = new Map(["A", "B", "C"].map((name) => [name, vector(1)]));
  const groups: Readonly<Record<string, string>> = { A: "routed", B: "routed" };
  const guard = () => zeroUpdateGuard(params, { patience: 3, groupOf: (name) => groups[name] });
  const steps = (gradients: (step: number) => [number, number, number], guarded = guard()) => {
    for (let step = 1; step <= 20; step++) {
      const [a, b, c] = gradients(step);
      guarded.checkGrads(step, new Map(Object.entries({ A: vector(a), B: vector(b), C: vector(c) })));
    }
  };
  steps(() => [0, 1, 1]);
  steps((step) => [0, step % 3 === 0 ? 1 : 0, 1]);
  expect(() => steps((step) => [0, step < 5 ? 1 : 0, 1])).toThrow(
    expect.objectContaining({ details: { step: 7, names: ["A", "B"] } }),
  );
  expect(() => steps(() => [0, 1, 0])).toThrow(
    expect.objectContaining({ details: { step: 3, names: ["C"] } }),
  );
});

test("a missing gradient counts as zero, and the count survives a restore", () => {
  const params = new Map([["A", vector(1)]]);
  const first = zeroUpdateGuard(params, { patience: 2 });
  first.checkGrads(1, new Map());
  const second = zeroUpdateGuard(params, { patience: 2 });
  second.restore(first.state());
  expect(() => second.checkGrads(2, new Map())).toThrow(/'A' received a gradient of exactly zero/);
});

test("updates that change no bit are an error, those with learning rate 0 do not count", () => {
  const params = new Map([["A", vector(1, 2)]]);
  const guard = zeroUpdateGuard(params, { patience: 2 });
  for (let step = 1; step <= 9; step++) guard.checkUpdate(step, 0);
  guard.checkUpdate(10, 1e-12);
  params.get("A")?.set([1.5], 0);
  guard.checkUpdate(11, 1e-12);
  guard.checkUpdate(12, 1e-12);
  expect(() => guard.checkUpdate(13, 1e-12)).toThrow(/2 updates changed not one bit of 'A'/);
});

test("early stopping keeps the best parameters and stops after `patience` stale evaluations", () => {
  const params = new Map([["w", vector(0)]]);
  const stopping = earlyStopping(params, { patience: 2, minDelta: 0.1 });
  const stops = [3, 2, 1.95, Number.NaN].map((metric, i) => {
    params.get("w")?.fill(i);
    return stopping.observe(i * 10, metric);
  });
  expect(stops.map(({ improved }) => improved)).toEqual([true, true, false, false]);
  expect(stops.map(({ stop }) => stop)).toEqual([false, false, false, true]);
  expect(stopping.restoreBest()).toBe(10);
  expect(params.get("w")).toEqual(vector(1));
});

test("early stopping continues from its saved state, in mode max", () => {
  const params = new Map([["w", vector(1)]]);
  const first = earlyStopping(params, { patience: 1, mode: "max" });
  first.observe(1, 0.5);
  const second = earlyStopping(params, { patience: 1, mode: "max" });
  expect(() => second.restore(first.state(), undefined)).toThrow(/best parameters \(step 1\) are missing/);
  second.restore(first.state(), new Map([["w", vector(1)]]));
  params.get("w")?.fill(9);
  expect(second.observe(2, 0.4)).toEqual({ improved: false, stop: true });
  second.restoreBest();
  expect(params.get("w")).toEqual(vector(1));
});
