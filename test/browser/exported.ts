/** Runs in Node: folders as transformers.js reads them, and what the models in them say here. */
import { fileURLToPath } from "node:url";
import {
  createSeq2seqGenerator,
  exportOnnx,
  generate,
  loadModel,
  probe,
  runModel,
  type TensorModel,
} from "../../src/models/index.js";
import type { Tensor } from "../../src/tensor/index.js";
import { type PlainTensor, plain } from "./reference.js";

export interface Exported {
  readonly prompt: string;
  /** What the shipped model writes after the prompt, greedily. */
  readonly text: string;
  /** Inputs and outputs of other models, by folder. */
  readonly models: Readonly<
    Record<string, Readonly<Record<"feeds" | "outputs", Record<string, PlainTensor>>>>
  >;
  /** Greedy tokens of the sequence-to-sequence model after its source. */
  readonly seq2seq: { readonly source: readonly number[]; readonly tokens: readonly number[] };
}

const PROMPT = "export function ";
const SOURCE = [5, 9, 11];

/** Writes the folders below `folder`; `root` is the repository. */
export async function exported(root: URL, folder: string): Promise<Exported> {
  const at = (path: string) => fileURLToPath(new URL(path, root));
  const layout = "transformers.js";
  const shipped = await loadModel(at("assets/default-model"));
  await exportOnnx(shipped, `${folder}/shipped`, { layout, variants: ["q8"], external: "always" });
  const { text } = await generate(shipped, PROMPT, { maxTokens: 24, temperature: 0 });
  const models: Record<string, Record<"feeds" | "outputs", Record<string, PlainTensor>>> = {};
  for (const [name, path] of [
    ["bert", "fixtures/text-models/bert-classes"],
    ["vit", "fixtures/vision/vit"],
  ] as const) {
    const model = (await loadModel(at(path), { task: "auto" })) as TensorModel;
    await exportOnnx(model, `${folder}/${name}`, { layout });
    const { feeds } = probe(model);
    const outputs = await runModel(model, feeds);
    models[name] = { feeds: plain(feeds as Record<string, Tensor>), outputs: plain(outputs) };
  }
  const t5 = await loadModel(at("fixtures/text-models/t5"), { task: "seq2seq" });
  await exportOnnx(t5, `${folder}/t5`, { layout });
  const generator = await createSeq2seqGenerator(t5);
  const { ids } = await generator.generate(SOURCE, { maxTokens: 8, temperature: 0 });
  await generator.close();
  return {
    prompt: PROMPT,
    text,
    models,
    seq2seq: { source: SOURCE, tokens: [t5.decoder?.startId ?? 0, ...ids] },
  };
}
