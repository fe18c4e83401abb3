import type { z } from "zod";
import { formatReceipt, isAdapted, merge } from "../../methods/index.js";
import { exportOnnx } from "../../models/index.js";
import type { Context } from "../command.js";
import type { exportSchema } from "../config/schema.js";
import { checkOnnx } from "../onnx-check.js";
import { openAdapted } from "../work.js";

export async function runExport(
  config: z.output<typeof exportSchema>,
  { ui, signal }: Context,
): Promise<void> {
  const model = await openAdapted(config, ui, signal);
  const merged = isAdapted(model) ? await merge(model) : undefined;
  const { cache, externalData: external } = config;
  const { path, files } = await exportOnnx(merged ?? model, config.out, { cache, external });
  const { maxDiff, scale } = await checkOnnx(model, path);
  const receipt = merged && { ...merged.receipt, action: "export" as const };
  if (receipt) ui.say(formatReceipt(receipt));
  ui.say(`wrote ${path}`);
  ui.say(
    `run by ONNX Runtime, its logits differ by at most ${maxDiff.toExponential(1)} (largest logit ${scale.toFixed(2)})`,
  );
  ui.result({ format: config.format, path, files, maxDiff, largestLogit: scale, receipt: receipt ?? null });
}
