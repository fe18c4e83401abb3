import { expect, test } from "vitest";
import { parse } from "yaml";
import { cardSections, MODEL_CARD_MARK, type ModelCardData, modelCard } from "./model-card.js";

const data: ModelCardData = {
  title: "notes",
  kind: "adapter",
  base: "HuggingFaceTB/SmolLM2-135M",
  hubBase: "HuggingFaceTB/SmolLM2-135M",
  method: "lora",
  config: { rank: 8, targets: ["q_proj"], chatTemplate: "```\n{{ x }}\n```" },
  data: {
    ...{
      source: "org/notes",
      hubId: "org/notes",
      layout: "chat",
      rows: 1200,
      dropped: 3,
      tokens: 5000,
      trainedTokens: 4000,
    },
    truncated: 2,
  },
  metrics: [
    ["perplexity before", 31.25789],
    ["perplexity", 12],
  ],
  receipt: "save 'default' (lora): 28 of 28 modules changed",
  license: "apache-2.0",
  version: "0.1.0",
  runId: "20260101-000000-aaaa",
};

const frontMatter = (card: string) => parse(/^---\n([\s\S]*?)\n---\n/.exec(card)?.[1] ?? "");

test("front matter is what the hub reads", () => {
  expect(frontMatter(modelCard(data))).toEqual({
    base_model: "HuggingFaceTB/SmolLM2-135M",
    base_model_relation: "adapter",
    library_name: "peft",
    pipeline_tag: "text-generation",
    license: "apache-2.0",
    datasets: ["org/notes"],
    tags: ["tunesmith", "lora", "peft"],
  });
});

test("the card says how it was made; blocks end where they should", () => {
  const card = modelCard(data);
  expect(card).toContain(MODEL_CARD_MARK);
  expect(card).toContain("| perplexity before | 31.258 |\n| perplexity | 12 |");
  expect(card).toContain("| rows | 1,200 |");
  expect(card).toContain("28 of 28 modules changed");
  expect(card).toContain('PeftModel.from_pretrained(base, "path/to/this/folder")');
  const [, block] = /````yaml\n([\s\S]*?)\n````/.exec(card) ?? [];
  expect(parse(block ?? "")).toEqual(data.config);
});

test("a merged model is used without an adapter, and what is unknown is left out", () => {
  const card = modelCard({
    title: "m",
    kind: "model",
    base: "gpt2",
    method: "full",
    config: {},
    version: "1",
  });
  expect(frontMatter(card)).toEqual({
    library_name: "transformers",
    pipeline_tag: "text-generation",
    tags: ["tunesmith", "full"],
  });
  expect(card).not.toMatch(/loadAdapter|peft|## Data|## Receipt|## Results/);
});

test("a converted classifier for transformers.js says its pipeline, and keeps sections of another card", () => {
  const trained = modelCard(data);
  const sections = cardSections(trained, ["Data", "Results"]);
  const card = modelCard({
    title: "reviews",
    kind: "onnx",
    base: "org/bert",
    hubBase: "org/bert",
    task: "sequence-classification",
    forTransformersJs: true,
    config: {},
    sections,
    version: "1",
  });
  expect(frontMatter(card)).toEqual({
    base_model: "org/bert",
    base_model_relation: "quantized",
    library_name: "transformers.js",
    pipeline_tag: "text-classification",
    tags: ["tunesmith", "transformers.js"],
  });
  expect(card).toContain('pipeline("text-classification", "reviews")');
  expect(card).toContain("| perplexity before | 31.258 |");
  expect(card).toContain("converted by Tunesmith 1");
  expect(card).not.toMatch(/## (Receipt|Configuration)/);
});
