import type { z } from "zod";
import { writeFileAtomic } from "#io";
import { readSeries } from "../../data/index.js";
import { TunesmithError } from "../../errors/index.js";
import { forecast, type Prediction, predict } from "../../training/index.js";
import type { Context } from "../command.js";
import type { predictSchema } from "../config/predict-schema.js";
import { readData, required, sessionOf, throwIfAborted } from "../work.js";
import { openForTask, processorOf } from "./task-model.js";

type Config = z.output<typeof predictSchema>;

/** What a model says of each row, as JSON lines. */
export async function runPredict(config: Config, { ui, signal }: Context): Promise<void> {
  const given = { ...config, model: required(config.model, "model"), for: config.task };
  const model = await openForTask(given, ui, signal);
  if (model.task === "causal-lm") {
    throw new TunesmithError("task-mismatch", "a language model predicts text", {
      fix: "use tunesmith generate, or name another --task",
    });
  }
  const session = sessionOf(config);
  if (model.task === "forecasting") {
    const found = await forecast(model, await readSeries(config.data), undefined, { session });
    await finish(
      config,
      found.values.map((values, step) => ({ step: step + 1, ...named(found.channels, values) })),
      ui,
    );
    return;
  }
  const { rows } = await readData(config.data, config);
  const kept = config.limit === undefined ? rows : rows.slice(0, config.limit);
  const { batchSize, length, multiLabel, maxTokens } = config;
  const processor = await processorOf(model);
  const bar = ui.progress("predicting", kept.length);
  const predictions: Prediction[] = [];
  try {
    // In slices, so that the bar moves.
    for (let at = 0; at < kept.length; at += 16 * batchSize) {
      throwIfAborted(signal);
      const slice = kept.slice(at, at + 16 * batchSize);
      predictions.push(
        ...(await predict(model, slice, {
          batchSize,
          length,
          multiLabel,
          maxTokens,
          session,
          ...(processor ? { processor } : {}),
        })),
      );
      bar.update(predictions.length);
    }
  } finally {
    bar.stop();
  }
  await finish(
    config,
    predictions.map((prediction, row) => ({ row: row + 1, ...prediction })),
    ui,
  );
}

const named = (names: readonly string[], values: readonly number[]) =>
  Object.fromEntries(names.map((name, at) => [name, values[at]]));

async function finish({ out }: Config, lines: readonly object[], ui: Context["ui"]): Promise<void> {
  const text = lines.map((line) => `${JSON.stringify(line)}\n`).join("");
  if (out === undefined) {
    ui.say(text.trimEnd());
    ui.result({ predictions: lines });
    return;
  }
  await writeFileAtomic(out, text);
  ui.say(`wrote ${lines.length} predictions to ${out}`);
  ui.result({ out, rows: lines.length });
}
