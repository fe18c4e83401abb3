import { relativeRates } from "../../methods/index.js";
import { unitStepRate } from "../../training/index.js";
import type { TrainConfig } from "../config/schema.js";

/**
 * The learning rate of a run that names none, where it is not simply the optimiser's default: that times what the method
 * needs more or less than LoRA, for which the default is made.
 */
export function defaultRate({
  method,
  optimizer,
  optimizerOptions,
  lr,
}: TrainConfig): { readonly lr: number; readonly why: string } | undefined {
  const [usual, relative] = [unitStepRate(optimizer), relativeRates[method]];
  if (lr !== undefined || optimizerOptions.lr !== undefined) return undefined;
  if (usual === undefined || relative === undefined || relative === 1) return undefined;
  const rate = Number((usual * relative).toPrecision(3));
  return { lr: rate, why: `${optimizer}'s ${usual} times ${relative}, which suits ${method} (--lr)` };
}
