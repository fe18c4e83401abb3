import type { RewriteOptions } from "../graph/index.js";
import { type AnyModel, type Inputs, type Model, rewriteOutputs } from "../models/index.js";

/** What adapters, receipts and unfreezing add to a model. */
const ADDED = new Set(["base", "adapters", "active", "unfrozen", "receipt"]);

/** A model's description without what was added to it: a model made over it is not adapted, unfrozen or merged itself. */
export function plainFields<M extends Model>(model: M): M {
  return Object.fromEntries(Object.entries(model).filter(([key]) => !ADDED.has(key))) as unknown as M;
}

/** A plain model over another: its graphs rewritten, and `weights` in the place of its own. */
export function rewrittenModel<M extends Model>(base: M, weights: M["weights"], rewrite: RewriteOptions): M {
  const below: AnyModel = base;
  return {
    ...plainFields(base),
    weights,
    build: (inputs: Inputs) => rewriteOutputs(below.build(inputs), rewrite),
  } as M;
}
