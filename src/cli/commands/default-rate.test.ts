import { expect, test } from "vitest";
import { methodNames, relativeRates } from "../../methods/index.js";
import { resolveOptions } from "../config/resolve.js";
import { runSchema } from "../config/schema.js";
import { defaultRate } from "./default-rate.js";
import type { RunConfig } from "./prepare-run.js";

const rateOf = (flags: Record<string, unknown>) =>
  defaultRate(
    resolveOptions(runSchema(String(flags.method)), {
      flags: { model: "m", data: "d", out: "o", ...flags },
      file: undefined,
    }) as RunConfig,
  );
const measured = Object.entries(relativeRates).find(([name, rate]) => name !== "lora" && rate !== 1);

test("a method that needs another rate than LoRA gets it, and is told why", () => {
  const [method, relative] = measured ?? ["", 0];
  expect(rateOf({ method })?.lr).toBeCloseTo(2e-4 * relative, 8);
  expect(rateOf({ method })?.why).toContain(method);
});

test("lora, a rate that is given, and optimisers whose steps follow the gradient: nothing is changed", () => {
  const [method] = measured ?? [""];
  expect(rateOf({ method: "lora" })).toBeUndefined();
  expect(rateOf({ method, lr: 1e-3 })).toBeUndefined();
  expect(rateOf({ method, optimizerOptions: { lr: 1e-3 } })).toBeUndefined();
  for (const optimizer of ["sgd", "prodigy", "muon"]) expect(rateOf({ method, optimizer })).toBeUndefined();
});

test("every measured method is one", () => {
  for (const name of Object.keys(relativeRates)) expect(methodNames).toContain(name);
});
