import { type RewriteOptions, rewriteValues } from "../graph/index.js";
import type { LmOutputs } from "./types.js";

/** A forward pass rewritten as a whole: every output is mapped, so it can be rewritten again. */
export function rewriteOutputs(outputs: LmOutputs, options: RewriteOptions): LmOutputs {
  const keysAndValues = outputs.present.flatMap(({ key, value }) => [key, value]);
  const get = rewriteValues(
    [outputs.logits, outputs.hidden, ...outputs.boundaries, ...keysAndValues],
    options,
  );
  return {
    hidden: get(outputs.hidden),
    logits: get(outputs.logits),
    boundaries: outputs.boundaries.map(get),
    present: outputs.present.map(({ key, value }) => ({ key: get(key), value: get(value) })),
  };
}
