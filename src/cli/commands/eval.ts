import { type Pack, paddingId, prepareRows } from "../../data/index.js";
import { TunesmithError } from "../../errors/index.js";
import type { Tokenizer } from "../../models/index.js";
import { createEvaluator, nextToken, nextTokenBatches } from "../../training/index.js";
import type { Context } from "../command.js";
import { flagOf } from "../config/flags.js";
import type { EvalConfig } from "../config/schema.js";
import { formatCount, table } from "../ui.js";
import {
  packingFor,
  readData,
  required,
  rowLength,
  sessionOf,
  throwIfAborted,
  tokenizeOptions,
  tokenizerOf,
} from "../work.js";
import { openForTask } from "./task-model.js";

export async function runEval(config: EvalConfig, context: Context): Promise<void> {
  const { compare, tasks, task } = config;
  checkOptions(config);
  if (compare) return (await import("./eval-compare.js")).runCompare(compare, config, context);
  if (tasks || task !== "perplexity") return (await import("./eval-tasks.js")).runEvalTasks(config, context);
  return runPerplexity(config, context);
}

/** Which kinds of evaluation read an option; for others it would do nothing. */
const READ_BY: Partial<Record<keyof EvalConfig, readonly string[]>> = {
  metrics: ["generate", "choices", "classify", "predictions"],
  out: ["generate", "choices", "classify", "predictions", "tasks"],
  examples: ["generate", "choices", "classify", "predictions", "tasks"],
  limit: ["perplexity", "generate", "choices", "classify", "predictions", "tasks"],
  promptField: ["generate", "choices", "classify"],
  targetField: ["generate", "choices", "classify"],
  labels: ["classify"],
  delimiter: ["choices", "classify"],
  numFewshot: ["tasks"],
  data: ["perplexity", "generate", "choices", "classify", "predictions"],
  model: ["perplexity", "generate", "choices", "classify", "tasks"],
  adapter: ["perplexity", "generate", "choices", "classify", "tasks"],
};

function checkOptions(config: EvalConfig): void {
  const kinds = [
    ...(config.compare ? ["compare"] : []),
    ...(config.tasks ? ["tasks"] : []),
    ...(config.task === "perplexity" ? [] : [config.task]),
  ];
  const [kind = "perplexity", other] = kinds;
  const shown = (name: string) => (READ_BY.data?.includes(name) ? `--task ${name}` : `--${name}`);
  if (other !== undefined) {
    throw new TunesmithError("config-invalid", `${shown(kind)} and ${shown(other)} do not go together`, {
      fix: "leave one out",
    });
  }
  for (const [key, readers] of Object.entries(READ_BY)) {
    if (config[key as keyof EvalConfig] === undefined || readers.includes(kind)) continue;
    throw new TunesmithError("config-invalid", `${flagOf(key)} does nothing with ${shown(kind)}`, {
      fix: `leave it out, or use ${readers.map(shown).join(", ")}`,
    });
  }
}

async function runPerplexity(config: EvalConfig, context: Context): Promise<void> {
  const { ui, signal } = context;
  const opened = { ...config, model: required(config.model, "model") };
  const any = await openForTask(opened, ui, signal);
  if (any.task !== "causal-lm") return (await import("./eval-own.js")).runOwnTask(any, config, context);
  const model = any;
  const tokenizer = tokenizerOf(model);
  const { rows: all } = await readData(required(config.data, "data"), config);
  const rows = all.slice(0, config.limit);
  const length = rowLength(model, config.length);
  const { packs, lengths } = prepareRows(rows, tokenizer, {
    ...tokenizeOptions(config),
    length,
    packing: packingFor(model),
  });
  const options = {
    batchSize: config.batchSize,
    lengths,
    padId: paddingId(tokenizer),
    session: sessionOf(config),
  };
  const evaluator = createEvaluator(nextToken(model, { ...options, validation: packs }), options);
  const bar = ui.progress("evaluating", packs.length);
  let [sum, tokens] = [0, 0];
  try {
    // In slices, so that the bar moves; the mean over tokens does not depend on them.
    const slice = config.batchSize * 4;
    for (let at = 0; at < packs.length; at += slice) {
      throwIfAborted(signal);
      const batches = nextTokenBatches(packs.slice(at, at + slice), options);
      const part = await evaluator.run(batches);
      if (part.count === 0) continue;
      sum += part.loss * part.count;
      tokens += part.count;
      bar.update(Math.min(at + slice, packs.length), `loss ${(sum / tokens).toFixed(4)}`);
    }
  } finally {
    bar.stop();
    await evaluator.close();
  }
  const loss = sum / tokens;
  const bytes = trainedBytes(packs, tokenizer);
  const bitsPerByte = sum / Math.LN2 / bytes;
  ui.say(
    table([
      ["loss", `${loss.toFixed(4)} per token`],
      ["perplexity", Math.exp(loss).toFixed(3)],
      ["bits per byte", bitsPerByte.toFixed(4)],
      ["tokens", formatCount(tokens)],
    ]),
  );
  ui.result({ loss, perplexity: Math.exp(loss), tokens, bitsPerByte, bytes, rows: rows.length });
}

/** UTF-8 bytes of the text that is predicted; special tokens have none. */
function trainedBytes(packs: readonly Pack[], tokenizer: Tokenizer): number {
  const encoder = new TextEncoder();
  let bytes = 0;
  for (const { examples } of packs) {
    for (const { ids, lossMask } of examples) {
      const predicted = ids.filter((_, at) => lossMask[at] === 1);
      bytes += encoder.encode(tokenizer.decode(predicted, { skipSpecialTokens: true })).length;
    }
  }
  return bytes;
}
