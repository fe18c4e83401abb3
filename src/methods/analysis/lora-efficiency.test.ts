import { expect, test } from "vitest";
import { makeGraph, type Value } from "../../graph/index.js";
import {
  initTensorModel,
  inputsOf,
  type Model,
  type Outputs,
  parameterFeeds,
  probe,
  sitesOf,
} from "../../models/index.js";
import { evaluate } from "../../runtime/index.js";
import { type Tensor, tensor } from "../../tensor/index.js";
import { adapt, lora, lqLora, merge, oft } from "../index.js";
import { baseModel, randomise } from "../testing/fixtures.js";
import { type HeadEfficiency, loraEfficiency } from "./lora-efficiency.js";

const IDS = [3, 17, 40, 5, 5, 61, 0, 22, 9, 31];

/** What a map gives in a plain model, `[tokens, out]`. */
async function outputOf(
  model: Model,
  path: string,
  given: Readonly<Record<string, Tensor>>,
): Promise<Float32Array> {
  const { inputs, feeds } = probe(model, IDS.length);
  const outputs = (model.build as (inputs: unknown) => Outputs)(inputs);
  const y = sitesOf(outputs).find((site) => site.path === path)?.node.outputs[0] as Value;
  const graph = makeGraph("y", inputsOf([y]), [["y", y]]);
  const read = Object.entries({ ...feeds, ...given }).filter(([name]) =>
    graph.inputs.some((value) => value.name === name),
  );
  const all = { ...Object.fromEntries(read), ...parameterFeeds(graph, model.parameters) };
  return (await evaluate(graph, all)).y?.data as Float32Array;
}

const ids = { ids: tensor("int64", [1, IDS.length], IDS) };

/** Largest magnitude in columns `from` to `from + dim`. */
const largest = (data: Float32Array, width: number, from: number, dim: number): number =>
  data.reduce((most, value, at) => {
    const column = at % width;
    return column >= from && column < from + dim ? Math.max(most, Math.abs(value)) : most;
  }, 0);

const atHead = (found: readonly HeadEfficiency[], path: string, head: number) =>
  found.find((each) => each.path === path && each.head === head) as HeadEfficiency;

test("queries and keys of heads are those of the merged model; what is suggested puts the update at the threshold", async () => {
  const base = await baseModel("llama");
  const { heads, kvHeads, headDim } = base.sizes;
  const model = randomise(await adapt(base, lora({ rank: 2, alpha: 6, targets: ["q_proj", "k_proj"] })));
  const found = await loraEfficiency(model, "default", IDS);
  expect(found.length).toBe(heads * base.sizes.layers);
  const merged = await merge(model);
  const half = headDim ** -0.25;
  for (const layer of [0, base.sizes.layers - 1]) {
    const path = `model.layers.${layer}.self_attn`;
    const q = await outputOf(merged, `${path}.q_proj`, ids);
    const k = await outputOf(merged, `${path}.k_proj`, ids);
    for (let head = 0; head < heads; head++) {
      const { gQ, gK, threshold, below } = atHead(found, path, head);
      const keyHead = Math.floor((head * kvHeads) / heads);
      expect(gQ).toBeCloseTo(half * largest(q, heads * headDim, head * headDim, headDim), 4);
      expect(gK).toBeCloseTo(half * largest(k, kvHeads * headDim, keyHead * headDim, headDim), 4);
      expect(threshold).toBeCloseTo(Math.sqrt(Math.log(IDS.length)), 6);
      expect(below).toBe(gQ <= threshold && gK <= threshold);
    }
  }
  const path = "model.layers.0.self_attn";
  const added = await Promise.all(
    (["q_proj", "k_proj"] as const).map(async (name) => {
      const [now, before] = [merged, base].map((each) => outputOf(each, `${path}.${name}`, ids));
      const old = (await before) as Float32Array;
      return ((await now) as Float32Array).map((value, at) => (value - Number(old[at])) / 3);
    }),
  );
  for (let head = 0; head < heads; head++) {
    const keyHead = Math.floor((head * kvHeads) / heads);
    const most = Math.max(
      largest(added[0] as Float32Array, heads * headDim, head * headDim, headDim),
      largest(added[1] as Float32Array, kvHeads * headDim, keyHead * headDim, headDim),
    );
    const { suggestedMaxScale, threshold } = atHead(found, path, head);
    expect(Number(suggestedMaxScale) * half * most).toBeCloseTo(threshold, 3);
  }
});

test("one map for queries, keys and values; an adapter elsewhere suggests nothing", async () => {
  const base = await baseModel("gpt2");
  const { heads, headDim } = base.sizes;
  const fused = randomise(await adapt(base, lora({ rank: 2, targets: ["c_attn"] })));
  const found = await loraEfficiency(fused, "default", IDS);
  const path = found[0]?.path as string;
  const y = await outputOf(await merge(fused), `${path}.c_attn`, ids);
  const width = 3 * heads * headDim;
  for (let head = 0; head < heads; head++) {
    const { gQ, gK, suggestedMaxScale } = atHead(found, path, head);
    expect(gQ).toBeCloseTo(headDim ** -0.25 * largest(y, width, head * headDim, headDim), 4);
    expect(gK).toBeCloseTo(headDim ** -0.25 * largest(y, width, (heads + head) * headDim, headDim), 4);
    expect(suggestedMaxScale).toBeGreaterThan(0);
  }
  const elsewhere = randomise(await adapt(base, lora({ rank: 2, targets: ["c_fc"] })));
  const none = await loraEfficiency(elsewhere, "default", IDS);
  expect(none.every(({ suggestedMaxScale }) => suggestedMaxScale === undefined)).toBe(true);
  expect(none.length).toBe(found.length);
});

test("encoders, LQ-LoRA, and a factor of the scores of one's own", async () => {
  const sizes = { vocab_size: 64, hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2 };
  const bert = initTensorModel(
    { model_type: "bert", ...sizes, num_attention_heads: 4 },
    { task: "sequence-classification", labels: 2, seed: 1 },
  );
  const model = randomise(await adapt(bert, lora({ rank: 2, targets: ["query", "key"] })));
  const rows = { input_ids: tensor("int64", [2, 5], IDS) };
  const found = await loraEfficiency(model, "default", rows);
  expect(found.length).toBe(8);
  expect(found[0]?.threshold).toBeCloseTo(Math.sqrt(Math.log(5)), 6);
  const plain = await loraEfficiency(model, "default", rows, { scoreScale: 1, heads: { query: 4 } });
  expect(Number(plain[0]?.gQ) / Number(found[0]?.gQ)).toBeCloseTo(8 ** 0.25, 5);
  const lq = await lqLora(await baseModel("llama"), {
    rank: 2,
    alpha: 2,
    targets: ["q_proj"],
    bits: 4,
    blockSize: 16,
  });
  expect((await loraEfficiency(lq, "default", IDS))[0]?.suggestedMaxScale).toBeGreaterThan(0);
});

test("what cannot be measured is refused by name", async () => {
  const base = await baseModel("llama");
  const model = await adapt(base, lora({ rank: 2, targets: ["q_proj"] }));
  const refused = (run: Promise<unknown>, expected: RegExp) => expect(run).rejects.toThrow(expected);
  await refused(loraEfficiency(model, "other", IDS), /no adapter 'other'/);
  await refused(loraEfficiency(model, "default", [3]), /at least two/);
  await refused(
    loraEfficiency(await adapt(base, oft({ blockSize: 4 })), "default", IDS),
    /no adapter of LoRA but of oft/,
  );
  await refused(
    loraEfficiency(await adapt(base, lora({ rank: 2, dora: true, targets: ["q_proj"] })), "default", IDS),
    /not a low-rank update/,
  );
});
