import { expect, test } from "vitest";
import {
  addDecayedWeights,
  chain,
  clipByValue,
  globalNorm,
  noDecayGroup,
  scale,
  scaleBySchedule,
  sgd,
} from "./index.js";

const params = new Map([
  ["w", Float32Array.of(2, -2, 1)],
  ["bias", Float32Array.of(4)],
]);
const grads = () =>
  new Map([
    ["w", Float32Array.of(3, -0.5, -8)],
    ["bias", Float32Array.of(1)],
  ]);

test("clip by value, masked decay, schedule and scale in a chain", () => {
  const transform = chain(
    clipByValue(1),
    addDecayedWeights(0.5, (name) => name !== "bias"),
    scaleBySchedule((step) => step + 1),
    scale((name) => (name === "bias" ? 10 : 1)),
  );
  const updates = transform.update(grads(), transform.init(params), params, { step: 2 });
  expect(updates).toEqual(
    new Map([
      ["w", Float32Array.of(4, -3, -1)],
      ["bias", Float32Array.of(20)],
    ]),
  );
});

test("a state of another chain is refused", () => {
  const transform = chain(clipByValue(1), scale(2));
  const state = chain(clipByValue(1)).init(params);
  expect(() => transform.update(grads(), state, params, { step: 1 })).toThrow(/no part 1 of the chain/);
});

test("the global norm covers odd and even lengths", () => {
  expect(globalNorm(grads())).toBe(Math.sqrt(9 + 0.25 + 64 + 1));
});

test("noDecayGroup exempts biases and normalisation weights", () => {
  const names = [
    "h.0.ln_1.weight",
    "input_layernorm.weight",
    "model.norm.weight",
    "q_proj.bias",
    "q_proj.weight",
  ];
  const weights = new Map(names.map((name) => [name, Float32Array.of(1)]));
  const zeros = new Map(names.map((name) => [name, Float32Array.of(0)]));
  const optimizer = sgd({ lr: 1, weightDecay: 0.5, groups: [noDecayGroup()] });
  optimizer.step(weights, zeros, optimizer.init(weights), { step: 1 });
  expect([...weights.values()].map(([value]) => value)).toEqual([1, 1, 1, 1, 0.5]);
});
