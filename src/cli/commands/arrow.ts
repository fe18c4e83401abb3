import type { z } from "zod";
import { arrow } from "../../methods/index.js";
import type { Context } from "../command.js";
import type { arrowCommandSchema } from "../config/schema.js";
import { openModel } from "../work.js";
import { saveResult } from "./save-result.js";

/** Writes one adapter that routes tokens to adapters which were trained apart. */
export async function runArrow(
  { model, out, ...options }: z.output<typeof arrowCommandSchema>,
  { ui, signal }: Context,
): Promise<void> {
  const routed = await arrow(await openModel(model, ui, signal), options);
  const { receipt } = await saveResult(routed, out, ui);
  ui.result({ out, receipt });
}
