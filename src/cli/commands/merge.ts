import type { z } from "zod";
import { type Adapted, formatReceipt, merge } from "../../methods/index.js";
import { loadModel, logitsOf, type Model, probe, probeIds, runModel } from "../../models/index.js";
import { maxAbsDiff, type Tensor } from "../../tensor/index.js";
import type { Context } from "../command.js";
import type { mergeSchema } from "../config/schema.js";
import { saveWhole } from "../work.js";
import { openForTask } from "./task-model.js";

export async function runMerge(config: z.output<typeof mergeSchema>, { ui, signal }: Context): Promise<void> {
  const adapted = (await openForTask(config, ui, signal)) as Adapted<Model>;
  const merged = await merge(adapted, { quantized: config.quantized });
  if (config.quantized && !merged.receipt.quantized)
    ui.note("--quantized does nothing here: the weights that changed are floats");
  const files = await saveWhole(merged, config.out);
  const written = (await loadModel(config.out, { task: adapted.task })) as Model;
  const maxDiff = await largestDifference(written, adapted);
  ui.say(formatReceipt(merged.receipt));
  ui.say(
    `wrote ${config.out}; read back, its outputs differ from the adapted model's by ${maxDiff.toExponential(1)}`,
  );
  ui.result({ out: config.out, files, maxDiff, receipt: merged.receipt });
}

/** Largest difference of the main output on a small example. */
async function largestDifference(written: Model, model: Model): Promise<number> {
  const [found, expected] = await Promise.all([mainOutput(written, model), mainOutput(model, model)]);
  return maxAbsDiff(found, expected);
}

async function mainOutput(of: Model, like: Model): Promise<Tensor> {
  if (of.task === "causal-lm")
    return logitsOf(of, probeIds(of.sizes.vocabSize, Math.min(16, of.sizes.maxPositions)));
  const [first] = Object.values(await runModel(of, probe(like).feeds));
  return first as Tensor;
}
