import { stringify } from "yaml";
import type { Task } from "../../models/index.js";
import type { PlainData } from "../exact-json.js";

/** What a model card is made of; everything is plain data that a run has. */
export interface ModelCardData {
  readonly title: string;
  /** What the folder holds. */
  readonly kind: "adapter" | "model" | "onnx";
  /** Path or hub id of the base. */
  readonly base: string;
  /** The base's hub id, where it has one: becomes `base_model`. */
  readonly hubBase?: string;
  /** Left out: the base as it is, in another format. */
  readonly method?: string;
  /** Default `causal-lm`. */
  readonly task?: Task;
  /** The ONNX files lie as transformers.js reads them. */
  readonly forTransformersJs?: boolean;
  /** The resolved configuration. */
  readonly config: Readonly<Record<string, PlainData>>;
  readonly data?: ModelCardDataset;
  /** Name and value, in the order in which they are shown. */
  readonly metrics?: readonly (readonly [name: string, value: number])[];
  /** Lines of a receipt, as `formatReceipt` writes them. */
  readonly receipt?: string;
  /** Markdown sections taken over from another card, such as that of the adapter. */
  readonly sections?: string;
  /** SPDX identifier or a licence name of the hub; left out when unknown. */
  readonly license?: string;
  readonly languages?: readonly string[];
  /** Version of this library. */
  readonly version: string;
  readonly runId?: string;
}

/** What is known of the data. */
export interface ModelCardDataset {
  readonly source: string;
  /** Its hub id, where it has one: becomes `datasets`. */
  readonly hubId?: string;
  readonly layout: string;
  readonly rows: number;
  readonly dropped: number;
  readonly tokens: number;
  /** Tokens that had a loss. */
  readonly trainedTokens: number;
  readonly truncated: number;
  /** Tokens held out for evaluation. */
  readonly heldOutTokens?: number;
}

/** Stands in each card, so that only cards are ever overwritten. */
export const MODEL_CARD_MARK =
  "<!-- written by tunesmith from a run; edit freely and remove this line to keep it -->";

/**
 * The model card (README.md) of an adapter or model: front matter as the Hugging Face hub reads it (`base_model`,
 * `library_name`, `tags`, `datasets`, `license` where known), how it was made and how to use it.
 *
 * @example
 * ```ts
 * import { modelCard } from "tunesmith/training";
 * const card = modelCard({
 *   title: "notes", kind: "adapter", base: "models/smol", hubBase: "HuggingFaceTB/SmolLM2-135M", method: "lora",
 *   config: { rank: 8 }, metrics: [["perplexity", 12.5]], version: "0.1.0",
 * });
 * console.log(card.split("\n")[1]); // base_model: HuggingFaceTB/SmolLM2-135M
 * ```
 */
export function modelCard(data: ModelCardData): string {
  const { title, base, method, metrics = [], receipt, runId, version } = data;
  const made = runId === undefined ? "" : `, run \`${runId}\``;
  const how = method === undefined ? "converted" : `trained with \`${method}\``;
  const parts = [
    `---\n${stringify(frontMatter(data), { lineWidth: 0 })}---`,
    MODEL_CARD_MARK,
    `# ${title}`,
    `${nouns[data.kind](method !== undefined)} of \`${base}\`, ${how} by Tunesmith ${version}${made}.`,
    `## Use\n\n${usage(data)}`,
    data.data ? `## Data\n\n${dataTable(data.data)}` : "",
    metrics.length > 0
      ? `## Results\n\n${markdownTable(
          ["metric", "value"],
          metrics.map(([name, value]) => [name, shown(value)]),
        )}`
      : "",
    receipt === undefined
      ? ""
      : `## Receipt\n\nWhat the training changed, measured when it was saved:\n\n${fenced(receipt)}`,
    data.sections ?? "",
    Object.keys(data.config).length === 0
      ? ""
      : `## Configuration\n\n${fenced(stringify(data.config, { lineWidth: 0 }).trimEnd(), "yaml")}`,
  ];
  return `${parts.filter((part) => part !== "").join("\n\n")}\n`;
}

const nouns: Readonly<Record<ModelCardData["kind"], (trained: boolean) => string>> = {
  adapter: () => "An adapter",
  model: (trained) => (trained ? "A fine-tuned version" : "A copy"),
  onnx: (trained) => (trained ? "A fine-tuned version, as ONNX," : "The ONNX form"),
};

/** What the hub calls the tasks. */
const PIPELINES: Readonly<Partial<Record<Task, string>>> = {
  "causal-lm": "text-generation",
  "masked-lm": "fill-mask",
  seq2seq: "text2text-generation",
  "sequence-classification": "text-classification",
  "token-classification": "token-classification",
  "question-answering": "question-answering",
  "image-classification": "image-classification",
  "audio-classification": "audio-classification",
  regression: "text-classification",
  forecasting: "time-series-forecasting",
  embedding: "feature-extraction",
};
const pipelineOf = ({ task = "causal-lm" }: ModelCardData) => PIPELINES[task];

function frontMatter(card: ModelCardData): object {
  const { kind, hubBase, method, data, license, languages } = card;
  const relation = kind === "adapter" ? "adapter" : method === undefined ? "quantized" : "finetune";
  const onnx = card.forTransformersJs ? "transformers.js" : "onnx";
  const library = { adapter: "peft", model: "transformers", onnx }[kind];
  const pipeline = pipelineOf(card);
  return {
    ...(hubBase === undefined ? {} : { base_model: hubBase, base_model_relation: relation }),
    library_name: library,
    ...(pipeline === undefined ? {} : { pipeline_tag: pipeline }),
    ...(license === undefined ? {} : { license }),
    ...(languages ? { language: [...languages] } : {}),
    ...(data?.hubId === undefined ? {} : { datasets: [data.hubId] }),
    tags: [...new Set(["tunesmith", ...(method ? [method] : []), ...(kind === "model" ? [] : [library])])],
  };
}

const GENERATE = `import { generate, loadModel } from "tunesmith";

const model = await loadModel("path/to/this/folder");
console.log((await generate(model, "...", { maxTokens: 64 })).text);`;

const LOAD = (task: Task) => `import { loadModel } from "tunesmith";

const model = await loadModel("path/to/this/folder", { task: "${task}" });`;

/** transformers.js looks below `localModelPath` for the folder's name. */
const PIPELINE = (
  pipeline: string,
  folder: string,
) => `import { env, pipeline } from "@huggingface/transformers";

env.localModelPath = "path/to/the/folder/above";
const run = await pipeline("${pipeline}", ${JSON.stringify(folder)});`;

function usage(card: ModelCardData): string {
  const { kind, base, title, task = "causal-lm" } = card;
  if (kind !== "adapter") {
    const own = fenced(task === "causal-lm" ? GENERATE : LOAD(task), "js");
    const pipeline = card.forTransformersJs ? pipelineOf(card) : undefined;
    return pipeline ? `${fenced(PIPELINE(pipeline, title), "js")}\n\n${own}` : own;
  }
  const js = `import { generate, loadAdapter, loadModel } from "tunesmith";

const base = await loadModel(${JSON.stringify(base)});
const model = await loadAdapter(base, "path/to/this/folder");
console.log((await generate(model, "...", { maxTokens: 64 })).text);`;
  const python = `from peft import PeftModel
from transformers import AutoModelForCausalLM

base = AutoModelForCausalLM.from_pretrained(${JSON.stringify(base)})
model = PeftModel.from_pretrained(base, "path/to/this/folder")`;
  return `${fenced(js, "js")}\n\n${fenced(python, "python")}`;
}

function dataTable(data: ModelCardDataset): string {
  const rows: [string, string][] = [
    ["source", `\`${data.source}\``],
    ["layout", data.layout],
    ["rows", count(data.rows)],
    ["rows left out", count(data.dropped)],
    ["tokens", count(data.tokens)],
    ["tokens with a loss", count(data.trainedTokens)],
    ["rows cut short", count(data.truncated)],
    ["held-out tokens", data.heldOutTokens === undefined ? "none" : count(data.heldOutTokens)],
  ];
  return markdownTable(["data", ""], rows);
}

const count = (value: number) => value.toLocaleString("en-US");
const shown = (value: number) => (Number.isInteger(value) ? count(value) : value.toPrecision(5));
const cell = (text: string) => text.replaceAll("|", "\\|").replaceAll("\n", " ");

const markdownTable = (head: readonly string[], rows: readonly (readonly string[])[]): string =>
  [head, head.map(() => "---"), ...rows.map((row) => row.map(cell))]
    .map((row) => `| ${row.join(" | ")} |`)
    .join("\n");

/** A code block whose fence is longer than any run of backticks in it. */
function fenced(text: string, language = ""): string {
  const longest = Math.max(2, ...[...text.matchAll(/`+/g)].map(([run]) => run.length));
  const fence = "`".repeat(longest + 1);
  return `${fence}${language}\n${text}\n${fence}`;
}

/** Sections of a card under the given headings, as they stand there. */
export function cardSections(card: string, headings: readonly string[]): string {
  const sections = card.split(/^(?=## )/m).slice(1);
  const wanted = sections.filter((section) =>
    headings.includes(section.slice(3, section.indexOf("\n")).trim()),
  );
  return wanted.map((section) => section.trimEnd()).join("\n\n");
}
