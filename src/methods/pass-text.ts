import { ops, reach, type Value } from "../graph/index.js";
import type { Inputs, LmInputs, Outputs, Site } from "../models/index.js";

/** The texts that the rows of a language model's pass are tokens of, whatever of them is cached. */
export interface PassText {
  /** `[batch, length]`: which text a token is of; 0 and below is padding. Rows of activations are these, one after the other. */
  readonly segments: Value;
  /** int64 `[batch, past + length]`: ids that the texts began with, −1 for tokens generated since. */
  readonly prompt: Value;
  /** `[batch, past + length]`. */
  readonly promptSegments: Value;
  /** `[batch, length]`: columns of `prompt` up to and with a token. */
  readonly columns: Value;
}

const ones = (like: Value): Value => ops.full(like.shape, 1, "float32", [like]);

/** Undefined where the ids of cached tokens are not known. */
function textOf({ ids, prompt = ids, segments, past }: LmInputs): PassText | undefined {
  const columns = ops.cumSum(ones(segments), 1);
  if (!past) return { segments, prompt, promptSegments: segments, columns };
  if (!past.prompt) return undefined;
  return {
    segments,
    prompt: ops.concat([past.prompt, prompt], 1),
    promptSegments: ops.concat([past.segments, segments], 1),
    columns: ops.add(columns, ops.reduceSum(ones(past.segments), [1], true)),
  };
}

/**
 * The tokens that a site sees the rows of, in a pass with these inputs. Undefined for models of another kind, and past the last
 * hidden state: training and decoding compute the head on chosen rows.
 */
export function passTextOf(outputs: Outputs, inputs: Inputs): (site: Site) => PassText | undefined {
  let text: PassText | undefined;
  let body: ReadonlySet<Site["node"]> | undefined;
  return (site) => {
    if ("values" in inputs || "values" in outputs) return undefined;
    body ??= new Set(reach([outputs.hidden]).nodes);
    if (!body.has(site.node)) return undefined;
    text ??= textOf(inputs);
    return text;
  };
}
