import type { CausalLm } from "../models/index.js";

/** A model's description without what adapters, receipts or unfreezing added to it: a model over it is not theirs. */
export function plainFields(model: CausalLm): Omit<CausalLm, "build" | "parameters"> {
  const { task, architecture, sizes, weights, config, defaultTargets, packable, tokenizer, origin } = model;
  return { task, architecture, sizes, weights, config, defaultTargets, packable, tokenizer, origin };
}
