import { expect, test } from "vitest";
import { packExamples } from "../data/index.js";
import { type AdaptedLm, adapt, lily, smore } from "../methods/index.js";
import { smallModel } from "../methods/testing/fixtures.js";
import { adamw, fit, nextToken } from "./index.js";

const packs = packExamples(
  Array.from({ length: 8 }, (_, index) => {
    const ids = Int32Array.from({ length: 7 }, (_, at) => (3 + index + 5 * at) % 60);
    return { ids, lossMask: new Uint8Array(7).fill(1, 1) };
  }),
  { length: 8, strategy: "none" },
);

const run = (model: AdaptedLm) =>
  fit(nextToken(model, { train: packs, batchSize: 4, lengths: [8], padId: 0 }), {
    steps: 14,
    optimizer: adamw({ lr: 1e-3 }),
    session: { threads: 1, worker: false },
  });

/** With other marks on its parameters. */
const marked = (
  model: AdaptedLm,
  mark: (name: string) => { readonly routed?: string; readonly trainable?: boolean },
): AdaptedLm => ({
  ...model,
  parameters: new Map([...model.parameters].map(([name, each]) => [name, { ...each, ...mark(name) }])),
});

/** Its tensors of these names, each changed in place. */
function change(model: AdaptedLm, names: RegExp, by: (value: number) => number): AdaptedLm {
  const found = [...model.parameters.values()].filter(({ name }) => names.test(name));
  expect(found.length).toBeGreaterThan(0);
  for (const { tensor } of found) {
    const data = tensor.data as Float32Array;
    data.set(data.map(by));
  }
  return model;
}

/** A unit of a gate's query that no token wakes has no gradient; it is a state of that gate, not a mistake of the run. */
const asleep = (names: RegExp) => (model: AdaptedLm) => change(model, names, () => -1e3);
/** A softmax of far apart numbers has no gradient either. */
const settled = (names: RegExp) => (model: AdaptedLm) => change(model, names, (value) => 1e6 * value);

const tree = (balance = 0.01) =>
  adapt(
    smallModel(),
    smore({ experts: [3, 3], ranks: [1, 1], gateDim: 2, downDim: 4, balance, targets: ["q_proj"] }),
  );
const shared = () => adapt(smallModel(), lily({ rank: 2, experts: 2, targets: ["q_proj"] }));

test.each([
  ["a gate of S'MoRE", tree, asleep(/\.0\..*smore_gate_in_bias_1$/)],
  ["a router of Lily", shared, settled(/\.0\..*lily_router$/)],
] as const)("%s may go without gradient while others have some", async (_, make, freeze) => {
  expect((await run(freeze(await make()))).steps).toBe(14);
  // Unmarked, it may not.
  const unmarked = Object.fromEntries([["routed", undefined]]);
  await expect(run(marked(freeze(await make()), () => unmarked))).rejects.toMatchObject({
    code: "zero-update",
    details: { step: 10 },
  });
});

test("when all that routing reaches is without gradient, the run ends", async () => {
  const routers = settled(/lily_router$/)(await shared());
  await expect(run(routers)).rejects.toMatchObject({
    code: "zero-update",
    details: { names: [0, 1].map((layer) => `default/model.layers.${layer}.self_attn.q_proj.lily_router`) },
  });
  // Zero at the output of every tree, and kept there.
  const held = marked(await tree(0), (name) => (/smore_proj$/.test(name) ? { trainable: false } : {}));
  await expect(run(held)).rejects.toThrow(/smore_.* received a gradient of exactly zero for 10 steps/);
});

test("what is not routed is watched as ever", async () => {
  // A map whose output is zero and stays there: what carries children to it, no expert and no gate, gets nothing.
  const held = marked(await tree(), (name) => (/\.0\..*smore_proj$/.test(name) ? { trainable: false } : {}));
  const error = await run(held).catch((thrown: unknown) => thrown);
  expect(error).toMatchObject({ code: "zero-update" });
  const { names } = (error as { details: { names: string[] } }).details;
  expect(names.map((name) => name.replace(/^.*_proj\./, ""))).toEqual(["smore_W_1", "smore_W_bias_1"]);
});
