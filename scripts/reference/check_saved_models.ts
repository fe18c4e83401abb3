// Writes the models of fixtures/text-models and fixtures/vision, one with a fresh head and some with an untied head, with
// this library and has transformers load them: no tensor missing or left over, the same outputs. Needs the reference environment.
//
//   node scripts/run-ts.mjs scripts/reference/check_saved_models.ts .cache/reference/bin/python [NAME ...]
import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { adapt, lora, merge } from "../../src/methods/index.js";
import { loadModel, runModel, saveModel, type TensorModel } from "../../src/models/index.js";
import { rng } from "../../src/runtime/index.js";
import { openSafetensors, type Tensor, writeSafetensors } from "../../src/tensor/index.js";

const [python, ...wanted] = process.argv.slice(2);
if (!python) {
  console.error("usage: node scripts/run-ts.mjs scripts/reference/check_saved_models.ts PYTHON [NAME ...]");
  process.exit(2);
}
const fixtures = join(process.env.TUNESMITH_ROOT ?? ".", "fixtures");
const isOfTransformers = (name: string) => /^(vit|deit|clip|resnet|mobilenet)/.test(name);
const homes = new Map([
  ...readdirSync(join(fixtures, "text-models")).map(
    (name) => [name, join(fixtures, "text-models", name)] as const,
  ),
  ...readdirSync(join(fixtures, "vision"))
    .filter(isOfTransformers)
    .map((name) => [name, join(fixtures, "vision", name)] as const),
]);
const load = async (name: string, options: object = {}) =>
  (await loadModel(String(homes.get(name)), { task: "auto", ...options })) as TensorModel;

/** A head that was the embedding, with an adapter of its own folded in. */
async function untied(name: string, head: string): Promise<TensorModel> {
  const adapted = await adapt(await load(name), lora({ rank: 2, targets: [head] }));
  for (const { name: key, tensor } of adapted.parameters.values())
    rng(1, key).fillNormal(tensor.data as Float32Array, 0, 0.3);
  return merge(adapted);
}

const cases: Readonly<Record<string, () => Promise<TensorModel>>> = {
  ...Object.fromEntries([...homes.keys()].map((name) => [name, () => load(name)])),
  "bert-words-as-tokens": () => load("bert-words", { task: "token-classification", labels: ["O", "B", "I"] }),
  "bert-words-untied": () => untied("bert-words", "decoder"),
  "t5-untied": () => untied("t5", "lm_head"),
  "whisper-untied": () => untied("whisper", "proj_out"),
};

async function write(name: string, root: string): Promise<string> {
  const model = await (cases[name] as () => Promise<TensorModel>)();
  const folder = join(root, name);
  await saveModel(model, folder);
  const origin = [...homes.keys()]
    .filter((each) => name.startsWith(each))
    .sort((x, y) => y.length - x.length)[0];
  const file = await openSafetensors(join(String(homes.get(String(origin))), "expected.safetensors"));
  const given: Record<string, Tensor> = {};
  for (const spec of model.inputs) {
    const key = ["input", "in"]
      .map((prefix) => `${prefix}.${spec.name}`)
      .find((each) => file.entries.has(each));
    if (key !== undefined) given[spec.name] = await file.read(key);
  }
  const outputs = Object.entries(await runModel(model, given));
  const tensors: [string, Tensor][] = [
    ...Object.entries(given).map(([key, value]): [string, Tensor] => [`input.${key}`, value]),
    ...outputs.map(([key, value]): [string, Tensor] => [`output.${key}`, value]),
  ];
  await writeSafetensors(join(folder, "expected.safetensors"), new Map(tensors));
  return folder;
}

const root = mkdtempSync(join(tmpdir(), "tunesmith-saved-"));
const folders: string[] = [];
for (const name of Object.keys(cases)) {
  if (wanted.length === 0 || wanted.includes(name)) folders.push(await write(name, root));
}
const script = join(process.env.TUNESMITH_ROOT ?? ".", "scripts/reference/check_saved_models.py");
const { status, stdout, stderr } = spawnSync(python, [script, ...folders], { encoding: "utf8" });
console.log(stdout);
if (status !== 0) console.error(stderr.slice(-3000));
process.exit(status ?? 1);
