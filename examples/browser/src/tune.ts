/** What the page does with Tunesmith: open a model, train an adapter, take it out. No DOM here. */
import {
  type Adapted,
  adamw,
  applyMethod,
  createGenerator,
  exportOnnx,
  fit,
  loadDataset,
  loadModel,
  type Model,
  merge,
  methodNamed,
  nextToken,
  paddingId,
  prepareRows,
  type StoredFiles,
  saveAdapter,
  setActive,
  type TrainEvent,
} from "tunesmith";
import { fileBlob, readFile, remove, sha256, zipFolder } from "tunesmith/io";
import { imageObjective } from "./images.js";

export interface Settings {
  readonly run: string;
  readonly method: string;
  readonly targets: string;
  readonly rank: number;
  readonly steps: number;
  readonly batchSize: number;
  readonly length: number;
  readonly learningRate: number;
}

/** Training and generating happen in a worker, so that the page stays responsive. */
const session = { worker: true };

/** Paths are those of the origin private file system, where the browser keeps this site's files. */
export const runFolder = (run: string) => `/runs/${run}`;

/** Whatever the file is: language models and classifiers, from ONNX or safetensors. Weights are read when they are needed. */
export const openModel = ({ path }: StoredFiles): Promise<Model> => loadModel(path, { task: "auto" });

/** A fresh adapter on the model. The seed decides its numbers, so that a resumed run begins with the same ones. */
export function adaptModel(base: Model, { method, targets, rank }: Settings): Promise<Adapted> {
  const hasRank = "rank" in methodNamed(method).options.shape;
  const options = {
    ...(targets ? { targets: targets.includes(",") ? targets.split(/\s*,\s*/) : targets } : {}),
    ...(hasRank ? { rank } : {}),
  };
  return applyMethod(base, method, options, { seed: 0 }) as Promise<Adapted>;
}

interface TuneOptions {
  readonly stored: { readonly model: StoredFiles; readonly data: StoredFiles };
  readonly settings: Settings;
  readonly signal: AbortSignal;
  readonly onEvent: (event: TrainEvent) => void;
}

/**
 * Trains the adapter in place. Checkpoints go into the run's folder every few steps; when there is one already, training
 * continues from it with the same numbers as if it had never stopped. Another tab in the same folder is refused (`in-use`).
 */
export async function tune(model: Adapted, { stored, settings, signal, onEvent }: TuneOptions) {
  const { run, steps, learningRate, batchSize, length, method, targets, rank } = settings;
  const objective = await objectiveFor(model, stored.data, { batchSize, length });
  return fit(objective, {
    steps,
    optimizer: adamw({ lr: learningRate }),
    runDir: runFolder(run),
    resume: true,
    saveEvery: 5,
    // What must be the same for a run to be continued; the number of steps may change.
    config: { model: stored.model.id, learningRate, method, targets, rank },
    session,
    signal,
    onEvent,
  });
}

async function objectiveFor(model: Adapted, data: StoredFiles, shape: { batchSize: number; length: number }) {
  const { batchSize, length } = shape;
  const { rows } = await loadDataset(data.path);
  if (model.task !== "causal-lm") return imageObjective(model, rows, { batchSize, hash: data.id });
  if (!model.tokenizer) throw new Error("pick the model's tokenizer.json together with its .onnx file");
  // Models that cannot keep packed documents apart train one per row.
  const packing = model.packable === false ? "none" : "ffd";
  const { packs, lengths } = prepareRows(rows, model.tokenizer, { length, packing });
  return nextToken(model, { train: packs, lengths, batchSize, padId: paddingId(model.tokenizer) });
}

/** The adapter as the folder that PEFT reads, zipped, and the hash of its weights. */
export async function adapterZip(model: Adapted, run: string): Promise<{ zip: Blob; hash: string }> {
  const folder = `/adapters/${run}`;
  await remove(folder);
  await saveAdapter(model, folder);
  const hash = await sha256(await readFile(`${folder}/adapter_model.safetensors`));
  return { zip: await zipFolder(folder), hash };
}

/** The adapted model as one ONNX file that any ONNX Runtime runs. */
export async function mergedOnnx(model: Adapted): Promise<Blob> {
  const { path } = await exportOnnx(await merge(model), "/merged", { external: "never" });
  return fileBlob(path);
}

/** What the model writes without its adapter, and with it. */
export async function beforeAndAfter(
  model: Adapted,
  prompt: string,
  maxTokens: number,
): Promise<[string, string]> {
  const options = { maxTokens, temperature: 0.7, topP: 0.9, seed: 1 };
  const write = async (from: Adapted) => {
    if (from.task !== "causal-lm") throw new Error("only language models write");
    const generator = await createGenerator(from, session);
    try {
      return (await generator.generate(prompt, options)).text;
    } finally {
      await generator.close();
    }
  };
  return [await write(setActive(model, [])), await write(model)];
}
