// Writes adapter folders of every kind with this library and has PEFT load them: nothing missing, nothing unexpected,
// the same logits. Needs the reference environment of requirements.txt; not part of the tests.
//
//   node scripts/run-ts.mjs scripts/reference/check_written_adapters.ts .cache/reference/bin/python [NAME ...]
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { siteMethods } from "../../src/methods/catalog.js";
import { type AdaptedLm, adapt, type lora, saveAdapter } from "../../src/methods/index.js";
import {
  inputShape,
  loadFolder,
  loadModel,
  logitsOf,
  runModel,
  type TensorModel,
} from "../../src/models/index.js";
import { rng } from "../../src/runtime/index.js";
import { type Tensor, tensor } from "../../src/tensor/index.js";
import { type Job, loadWithPeft } from "./peft-jobs.js";

type Options = NonNullable<Parameters<typeof lora>[0]>;
interface Case {
  readonly model: "gpt2" | "llama" | "qwen2" | "vit" | "resnet" | "resnet-basic" | "mobilenet-dilated";
  /** Default: lora. */
  readonly method?: string;
  readonly options: Options | Readonly<Record<string, unknown>>;
}

const root = process.env.TUNESMITH_ROOT ?? ".";
const [python, ...wanted] = process.argv.slice(2);
if (!python) {
  console.error(
    "usage: node scripts/run-ts.mjs scripts/reference/check_written_adapters.ts PYTHON [NAME ...]",
  );
  process.exit(2);
}

const BOTH: Readonly<Record<string, Options>> = {
  plain: {},
  gaussian: { init: "gaussian" },
  orthogonal: { init: "orthogonal" },
  rslora: { rslora: true, alpha: 3 },
  dora: { dora: true },
  "all-linear": { targets: "all-linear" },
  pissa: { init: "pissa", targets: "all-linear" },
  "pissa-niter": { init: "pissa_niter_4" },
  "pissa-rslora": { init: "pissa", rslora: true },
  olora: { init: "olora" },
  "save-lm-head": { modulesToSave: ["lm_head"] },
  tokens: { trainableTokens: [3, 17, 40] },
  layers: { layers: [1] },
};
const CASES: Readonly<Record<string, Case>> = {
  ...Object.fromEntries(
    (["gpt2", "llama"] as const).flatMap((model) =>
      Object.entries(BOTH).map(([name, options]) => [`${model}-${name}`, { model, options }]),
    ),
  ),
  "gpt2-patterns": {
    model: "gpt2",
    options: {
      targets: ["c_attn", "c_fc"],
      rankPattern: { "h\\.0\\.attn\\.c_attn": 2 },
      alphaPattern: { c_fc: 20 },
    },
  },
  "llama-pissa-patterns": {
    model: "llama",
    options: { init: "pissa", rankPattern: { "layers.1.self_attn.q_proj": 2 }, alphaPattern: { v_proj: 20 } },
  },
  "gpt2-bias-all": { model: "gpt2", options: { bias: "all" } },
  "gpt2-bias-adapted": { model: "gpt2", options: { bias: "adapted" } },
  "gpt2-lora-bias": { model: "gpt2", options: { loraBias: true } },
  "gpt2-embedding": { model: "gpt2", options: { targets: ["wte", "wpe", "c_fc"] } },
  "llama-embedding": { model: "llama", options: { targets: ["embed_tokens", "o_proj"] } },
  "llama-dora-embedding": { model: "llama", options: { dora: true, targets: ["embed_tokens", "k_proj"] } },
  "vit-plain": { model: "vit", options: {} },
  "vit-patterns": {
    model: "vit",
    options: {
      targets: ["query", "intermediate.dense"],
      rankPattern: { "layer.0.*query": 2 },
      modulesToSave: ["classifier"],
    },
  },
  "vit-patches": { model: "vit", options: { dora: true, targets: ["projection", "output.dense"] } },
  "resnet-plain": { model: "resnet", options: { rslora: true } },
  "resnet-dora": { model: "resnet-basic", options: { dora: true, targets: ["convolution", "classifier.1"] } },
  "resnet-pissa": { model: "resnet", options: { init: "pissa", rank: 2 } },
  "mobilenet-pointwise": {
    model: "mobilenet-dilated",
    options: { targets: ".*(expand|reduce)_1x1\\.convolution" },
  },
  "llama-head": { model: "llama", options: { targets: ["lm_head", "q_proj"] } },
  "llama-save-embedding": { model: "llama", options: { modulesToSave: ["embed_tokens", "input_layernorm"] } },
  "llama-regex": { model: "llama", options: { targets: "model\\.layers\\.[01]\\.mlp\\.(gate|up)_proj" } },
  "llama-exclude": {
    model: "llama",
    options: { targets: ["q_proj", "v_proj"], exclude: ["layers.0.self_attn.q_proj"] },
  },
  "llama-osf": {
    model: "llama",
    method: "osf",
    options: { keptRank: 0.4, keptPattern: { "layers.1.*q_proj": 5 }, targets: ["q_proj", "up_proj"] },
  },
  "llama-deft-projection": { model: "llama", method: "deft-projection", options: { rank: 3, alpha: 5 } },
  "llama-deft-projection-qr": {
    model: "llama",
    method: "deft-projection",
    options: { rank: 3, projection: "qr" },
  },
  "gpt2-deft-projection": { model: "gpt2", method: "deft-projection", options: { projection: "qr" } },
  "llama-adamss": {
    model: "llama",
    method: "adamss",
    options: { rank: 7, subspaces: 3, subspaceRank: 2, targets: ["q_proj", "v_proj", "down_proj"] },
  },
  "llama-adamss-dynamic": {
    model: "llama",
    method: "adamss",
    options: { rank: 9, subspaceRank: 3, dynamicRank: true, threshold: 0.5, targets: ["up_proj"] },
  },
  "qwen2-adamss": { model: "qwen2", method: "adamss", options: { rank: 7, subspaces: 3, subspaceRank: 2 } },
  "llama-kasa": { model: "llama", method: "kasa", options: { rank: 3, alpha: 6 } },
  "llama-bdlora": {
    model: "llama",
    method: "bdlora",
    options: { rank: 6, blocks: 2, targets: "all-linear" },
  },
  "llama-mica": { model: "llama", options: { init: "mica" } },
};

function randomise(model: Pick<AdaptedLm, "parameters">): void {
  for (const { name, trainable, tensor: held } of model.parameters.values()) {
    if (!trainable) continue;
    const data = held.data as Float32Array;
    const noise = rng(7, name).fillNormal(new Float32Array(data.length), 0, 0.2);
    const scales = name.endsWith("magnitude_vector");
    for (let at = 0; at < data.length; at++)
      data[at] =
        (data[at] as number) * (scales ? 1 + (noise[at] as number) : 1) +
        (scales ? 0 : (noise[at] as number));
  }
}

const IDS = Array.from({ length: 12 }, (_, at) => (at * 17 + 3) % 70);
const VISION = ["vit", "resnet", "resnet-basic", "mobilenet-dilated"];

/** The adapted model, what it was fed, and what it gave. */
async function adapted({ model: base, method: name = "lora", options }: Case) {
  const folder = folderOf(base);
  const method = siteMethods.find((each) => each.name === name);
  if (!method) throw new Error(`no method ${name}`);
  const own = name === "lora" ? { rank: 4, alpha: 8, ...options } : options;
  const adaptation = { method, config: method.schema.parse(own) };
  if (!VISION.includes(base)) {
    const model = await adapt(await loadFolder(folder), adaptation);
    randomise(model);
    const logits = await logitsOf(model, IDS);
    const given = { input_ids: tensor("int64", [1, IDS.length], IDS) };
    return { model, given, logits: tensor("float32", [1, ...logits.shape], logits.data as Float32Array) };
  }
  const model = await adapt(await loadModel(folder, { task: "image-classification" }), adaptation);
  randomise(model);
  const pixel_values = exampleOf(model);
  const { logits } = await runModel(model, { pixel_values });
  return { model, given: { pixel_values }, logits: logits as Tensor };
}

const folderOf = (base: string) =>
  join(root, VISION.includes(base) ? "fixtures/vision" : "fixtures/models", base);

function exampleOf(model: TensorModel): Tensor {
  const [spec] = model.inputs;
  const shape = spec ? inputShape(model, spec) : [];
  const count = shape.reduce((a, b) => a * b, 1);
  return tensor("float32", shape, rng(3, "pixels").fillNormal(new Float32Array(count)));
}

const work = mkdtempSync(join(tmpdir(), "tunesmith-written-"));
const jobs: Job[] = [];
for (const [name, each] of Object.entries(CASES)) {
  if (wanted.length > 0 && !wanted.includes(name)) continue;
  const { model, given, logits } = await adapted(each);
  const adapter = join(work, name);
  await saveAdapter(model, adapter);
  jobs.push({ name, base: folderOf(each.model), adapter, given, logits });
}
const failures = await loadWithPeft(python, jobs, { root, work });
console.log(`${failures} failures`);
process.exit(failures > 0 ? 1 : 0);
