import { access, mkdir } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import type { z } from "zod";
import { joinPath, resolvePath, tempDir } from "#io";
import {
  type Dataset,
  loadDataset,
  type Pack,
  paddingId,
  prepareRows,
  splitDataset,
} from "../../data/index.js";
import { TunesmithError } from "../../errors/index.js";
import {
  type AdaptedLm,
  adapt,
  formatReceipt,
  loadAdapter,
  lora,
  merge,
  saveAdapter,
  trainableCount,
} from "../../methods/index.js";
import {
  type CausalLm,
  defaultModelPath,
  exportOnnx,
  generate,
  logitsOf,
  probeIds,
} from "../../models/index.js";
import { maxAbsDiff } from "../../tensor/index.js";
import { adamw, cosine, evaluateOnce, type TrainResult, train } from "../../training/index.js";
import type { Context } from "../command.js";
import type { quickstartSchema } from "../config/schema.js";
import { checkOnnx } from "../onnx-check.js";
import { formatCount, formatDuration, table, type Ui } from "../ui.js";
import { openModel, packingFor, rowLength, sessionOf, throwIfAborted, tokenizerOf } from "../work.js";

type Options = z.output<typeof quickstartSchema>;

/** About a minute on two cores with the model that comes along. */
const LENGTH = 128;
const BATCH = 8;
const RANK = 8;
const LEARNING_RATE = 3e-3;
/** So much text is read, and so many rows of it are held out, that neither takes longer than the training. */
const TEXT_BYTES = 2 * 2 ** 20;
const FILE_BYTES = 200 * 1024;
const HELD_OUT_ROWS = 48;
const SAMPLE_TOKENS = 60;
const PROMPT_TOKENS = 40;

export async function runQuickstart(options: Options, context: Context): Promise<void> {
  const started = performance.now();
  const { ui, signal } = context;
  const base = await openModel(options.model ?? (await defaultModelPath()), ui, signal);
  const { dataset, train: packs, heldOut, prompt } = await readText(options, base, ui);
  const adaptation = lora({ rank: RANK, alpha: 2 * RANK, targets: "all-linear" });
  const model = await adapt(base, adaptation, { seed: options.seed });
  ui.say(
    table([
      ["model", `${base.architecture}, ${formatCount(weightCount(base))} weights, all frozen`],
      [
        "adapter",
        `LoRA of rank ${RANK} on every linear layer: ${formatCount(trainableCount(model))} numbers are trained`,
      ],
      ["text", `${dataset.report.rows} files of ${resolvePath(dataset.name)}`],
    ]),
  );
  await sample("before", model, prompt, context);
  const before = await evaluate(model, heldOut, options);
  const result = await trainOn(packs, heldOut, model, options, context, before.perplexity);
  const after = result.evaluation ?? (await evaluate(model, heldOut, options));
  const perplexityAfter = Math.exp(after.loss);
  ui.say(`held-out perplexity ${before.perplexity.toFixed(2)} -> ${perplexityAfter.toFixed(2)}`);
  await sample("after", model, prompt, context);
  const saved = await saveAndCheck(base, model, options, ui);
  const seconds = (performance.now() - started) / 1000;
  ui.say(`\ndone in ${formatDuration(seconds)}; next:`);
  ui.say(
    `  npx tunesmith generate --model ${base.origin} --adapter ${saved.adapterDir} --prompt "import { "`,
  );
  ui.result({
    seconds,
    steps: result.steps,
    tokensPerSecond: result.tokensPerSecond,
    perplexityBefore: before.perplexity,
    perplexityAfter,
    ...saved,
  });
}

/** The user's text, or our own sources where there is none, as rows to train on and rows held out. */
async function readText(options: Options, base: CausalLm, ui: Ui) {
  const dataset = await readFolder(options.data, ui);
  const { train: trainRows, validation } = splitDataset(dataset, { seed: options.seed });
  const tokenizer = tokenizerOf(base);
  const length = Math.min(LENGTH, rowLength(base, undefined));
  const packing = packingFor(base);
  const prepared = prepareRows(trainRows, tokenizer, { length, packing });
  const held = prepareRows(validation, tokenizer, { length, packing });
  const [first] = validation;
  const text = first?.kind === "text" ? first.text : "";
  return {
    dataset,
    train: prepared.packs,
    heldOut: held.packs.slice(0, HELD_OUT_ROWS),
    prompt: beginning(text, base) || "The ",
  };
}

/** The first tokens of a text; they and the sample fit the model. */
function beginning(text: string, model: CausalLm): string {
  const tokenizer = tokenizerOf(model);
  const count = Math.min(PROMPT_TOKENS, Math.floor(model.sizes.maxPositions / 4));
  const ids = tokenizer.encode(text.slice(0, 10 * PROMPT_TOKENS), { addSpecialTokens: false });
  return tokenizer.decode(ids.slice(0, count), { skipSpecialTokens: true });
}

async function readFolder(path: string, ui: Ui): Promise<Dataset> {
  const limits = { maxBytes: TEXT_BYTES, maxFileBytes: FILE_BYTES };
  try {
    return await loadDataset(path, limits);
  } catch (error) {
    const nothing = error instanceof TunesmithError && error.code === "data-empty";
    if (!nothing || path !== ".") throw error;
    ui.note(
      "there is no text in this folder; learning from Tunesmith's own code instead (--data FOLDER for yours)",
    );
    return loadDataset(fileURLToPath(new URL("../../", import.meta.url)), limits);
  }
}

const weightCount = (model: CausalLm): number =>
  [...new Set(model.weights.values())].reduce(
    (sum, { shape }) => sum + shape.reduce<number>((a, b) => a * Number(b), 1),
    0,
  );

const evaluate = (model: AdaptedLm, packs: readonly Pack[], options: Options) =>
  evaluateOnce(model, packs, evaluationOptions(model, options));

const evaluationOptions = (model: AdaptedLm, options: Options) => ({
  batchSize: BATCH,
  lengths: [Math.min(LENGTH, model.sizes.maxPositions)],
  padId: paddingId(tokenizerOf(model)),
  session: sessionOf(options),
});

async function trainOn(
  packs: readonly Pack[],
  heldOut: readonly Pack[],
  model: AdaptedLm,
  options: Options,
  { ui, signal }: Context,
  perplexity: number,
): Promise<TrainResult> {
  throwIfAborted(signal);
  const { steps } = options;
  const bar = ui.progress("training", steps);
  let heldOutPerplexity = perplexity;
  const schedule = cosine({ totalSteps: steps, warmupRatio: 0.05 });
  try {
    return await train(model, {
      ...evaluationOptions(model, options),
      train: packs,
      validation: heldOut,
      steps,
      seed: options.seed,
      optimizer: adamw({ lr: LEARNING_RATE, schedule, maxGradNorm: 1 }),
      evalEvery: Math.max(1, Math.round(steps / 5)),
      signal,
      onEvent(event) {
        if (event.type === "evaluation") heldOutPerplexity = Math.exp(event.loss);
        if (event.type !== "step") return;
        const speed = `${formatCount(Math.round(event.tokensPerSecond))} tokens/s`;
        bar.update(
          event.step,
          `loss ${event.loss.toFixed(3)}  held-out perplexity ${heldOutPerplexity.toFixed(2)}  ${speed}`,
        );
      },
    });
  } finally {
    bar.stop();
  }
}

/** Shows how the model continues a text that it is not trained on. */
async function sample(when: string, model: CausalLm, prompt: string, { ui, signal }: Context): Promise<void> {
  const { text } = await generate(model, prompt, {
    maxTokens: SAMPLE_TOKENS,
    temperature: 0.7,
    topP: 0.9,
    seed: 1,
    signal,
  });
  const indent = (part: string) => part.trimEnd().replace(/\n/g, "\n  | ");
  ui.say(
    `\n${when} tuning, the model continues an unseen file:\n  | ${indent(prompt)} >>> ${indent(text)}\n`,
  );
}

/** Saves adapter and merged model, reads both back, and compares what they compute. */
async function saveAndCheck(base: CausalLm, model: AdaptedLm, options: Options, ui: Ui) {
  const folder = await writableFolder(options.out, ui);
  const adapterDir = joinPath(folder, "adapter");
  const receipt = await saveAdapter(model, adapterDir);
  const ids = probeIds(base.sizes.vocabSize, Math.min(16, base.sizes.maxPositions));
  const reloaded = await loadAdapter(base, adapterDir);
  const reloadMaxDiff = maxAbsDiff(await logitsOf(reloaded, ids), await logitsOf(model, ids));
  const { path: onnxPath } = await exportOnnx(await merge(model), joinPath(folder, "onnx"));
  const { maxDiff: mergedMaxDiff } = await checkOnnx(model, onnxPath);
  ui.say(formatReceipt(receipt));
  ui.say(`\nadapter saved to ${adapterDir}; read back, its logits differ by ${reloadMaxDiff}`);
  ui.say(
    `merged model exported to ${onnxPath}; run by ONNX Runtime, its logits differ by ${mergedMaxDiff.toExponential(1)}`,
  );
  return { reloadMaxDiff, mergedMaxDiff, adapterDir, onnxPath };
}

/** The wanted folder, or a temporary one where that cannot be written. */
async function writableFolder(path: string, ui: Ui): Promise<string> {
  const wanted = resolvePath(path);
  try {
    await mkdir(wanted, { recursive: true });
    await access(wanted, 2);
    return wanted;
  } catch {
    const folder = await tempDir("tunesmith-quickstart-");
    ui.note(`${wanted} cannot be written; using ${folder}`);
    return folder;
  }
}
