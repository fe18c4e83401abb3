import { type Pack, paddingId, prepareRows } from "../../data/index.js";
import { TunesmithError } from "../../errors/index.js";
import type { Tokenizer } from "../../models/index.js";
import { createEvaluator, nextToken, nextTokenBatches } from "../../training/index.js";
import type { Context } from "../command.js";
import type { EvalConfig } from "../config/schema.js";
import { formatCount, table } from "../ui.js";
import {
  openAdapted,
  packingFor,
  readData,
  required,
  rowLength,
  sessionOf,
  throwIfAborted,
  tokenizeOptions,
  tokenizerOf,
} from "../work.js";

export async function runEval(config: EvalConfig, context: Context): Promise<void> {
  const { compare, tasks, task } = config;
  checkOptions(config);
  if (compare) return (await import("./eval-compare.js")).runCompare(compare, config, context);
  if (tasks || task !== "perplexity") return (await import("./eval-tasks.js")).runEvalTasks(config, context);
  return runPerplexity(config, context);
}

/** Options of another kind of evaluation would do nothing; they are refused. */
function checkOptions({ compare, tasks, task, metrics, out, examples, data }: EvalConfig): void {
  const refuse = (problem: string, fix: string) => {
    throw new TunesmithError("config-invalid", problem, { fix });
  };
  if (tasks && (data !== undefined || task !== "perplexity" || metrics)) {
    refuse("--tasks brings its own data, task and metrics", "leave out --data, --task and --metrics");
  }
  if (!tasks && task === "perplexity" && (metrics || out !== undefined || examples !== undefined)) {
    refuse("--metrics, --out and --examples need a task", "give --task or --tasks, or leave them out");
  }
  if (compare && (tasks || task !== "perplexity")) {
    refuse("--compare runs no task", "leave out --tasks and --task");
  }
}

async function runPerplexity(config: EvalConfig, { ui, signal }: Context): Promise<void> {
  const model = await openAdapted({ ...config, model: required(config.model, "model") }, ui, signal);
  const tokenizer = tokenizerOf(model);
  const { rows } = await readData(required(config.data, "data"), config);
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
