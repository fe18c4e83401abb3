import { rates } from "./default-rates.js";

/** What was found best for a method on the shipped model. */
export interface MethodDefaults {
  /** Learning rate of AdamW. */
  readonly lr: number;
}

/**
 * Learning rates by method, found by `npm run sweep` (scripts/sweep-methods.mjs) on the shipped model: a start, since the
 * best rate depends on model, data and batch.
 *
 * @example
 * ```ts
 * import { methodDefaults } from "tunesmith/methods";
 * console.log(methodDefaults.lora?.lr);
 * ```
 */
export const methodDefaults: Readonly<Record<string, MethodDefaults>> = Object.fromEntries(
  Object.entries(rates).map(([name, lr]) => [name, { lr }]),
);
