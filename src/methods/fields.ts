import type { Model } from "../models/index.js";

/** What adapters, receipts and unfreezing add to a model. */
const ADDED = new Set(["base", "adapters", "active", "unfrozen", "receipt"]);

/** A model's description without what was added to it: a model made over it is not adapted, unfrozen or merged itself. */
export function plainFields<M extends Model>(model: M): M {
  return Object.fromEntries(Object.entries(model).filter(([key]) => !ADDED.has(key))) as unknown as M;
}
