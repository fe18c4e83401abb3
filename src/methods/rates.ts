// Written by npm run docs from docs/data/method-sweep.json.

/**
 * The best learning rate of each method over LoRA's, to half a decade, as measured on a small model (docs/comparison.md).
 * Methods that were not measured are not in it.
 */
export const relativeRates: Readonly<Record<string, number>> = {
  lora: 1,
};
