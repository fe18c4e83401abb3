import type { z } from "zod";
import { formatReceipt, loadAdapter, merge } from "../../methods/index.js";
import { loadModel, logitsOf, probeIds } from "../../models/index.js";
import { maxAbsDiff } from "../../tensor/index.js";
import type { Context } from "../command.js";
import type { mergeSchema } from "../config/schema.js";
import { openModel, saveWhole } from "../work.js";

export async function runMerge(config: z.output<typeof mergeSchema>, { ui, signal }: Context): Promise<void> {
  const base = await openModel(config.model, ui, signal, "causal-lm", { quantize: config.quantize });
  const adapted = await loadAdapter(base, config.adapter, { anyBase: config.anyBase });
  const merged = await merge(adapted, { quantized: config.quantized });
  const files = await saveWhole(merged, config.out);
  const ids = probeIds(base.sizes.vocabSize, Math.min(16, base.sizes.maxPositions));
  const maxDiff = maxAbsDiff(await logitsOf(await loadModel(config.out), ids), await logitsOf(adapted, ids));
  ui.say(formatReceipt(merged.receipt));
  ui.say(
    `wrote ${config.out}; read back, its logits differ from the adapted model's by ${maxDiff.toExponential(1)}`,
  );
  ui.result({ out: config.out, files, maxDiff, receipt: merged.receipt });
}
