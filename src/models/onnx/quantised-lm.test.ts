import { expect, test } from "vitest";
import { adaptedEverywhere, descend, lossAndGradients } from "../../../test/support/adapting.js";
import { loadModel } from "../load.js";
import { probeOutputs } from "../probe.js";
import { sitesOf } from "../sites.js";

const FILE = new URL("../../../fixtures/adaptable/lm/llama_q4.onnx", import.meta.url).pathname;

test("an adapter trains on a language model with 4-bit products", async () => {
  const model = await loadModel(FILE);
  const sites = sitesOf(probeOutputs(model)).filter(({ kind }) => kind === "linear");
  expect(sites).toHaveLength(15);
  expect(sites.every(({ stored }) => stored?.form === "float-product")).toBe(true);
  expect(model.defaultTargets).toEqual(["q_proj", "v_proj"]);
  const adapted = await adaptedEverywhere(model);
  const { loss, gradients } = await lossAndGradients(adapted);
  for (const [name, gradient] of gradients) expect(Math.hypot(...gradient), name).toBeGreaterThan(0);
  // A small step against the gradient lowers the loss by its length times the gradient's.
  const length = 1e-3;
  descend(adapted, gradients, length);
  const slope = Math.hypot(...[...gradients.values()].map((gradient) => Math.hypot(...gradient)));
  const ratio = (loss - (await lossAndGradients(adapted)).loss) / (length * slope);
  expect(ratio).toBeGreaterThan(0.8);
  expect(ratio).toBeLessThan(1.1);
});
