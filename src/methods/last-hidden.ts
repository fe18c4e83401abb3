import { TunesmithError } from "../errors/index.js";
import { ops, type Value } from "../graph/index.js";
import type { Outputs } from "../models/index.js";

/** The last hidden state of a pass, `[tokens, width]`. Throws `target-unsupported` for a model that gives none. */
export function lastHidden(outputs: Outputs, method: string): Value {
  const found = "values" in outputs ? outputs.values.last_hidden_state : outputs.hidden;
  if (found) return ops.reshape(found, [-1, found.shape.at(-1) ?? 1], [found]);
  throw new TunesmithError(
    "target-unsupported",
    `${method} reads the last hidden state, which this model does not give`,
    { fix: "use it on a language model, or on one with an output last_hidden_state" },
  );
}
