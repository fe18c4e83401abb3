import { TunesmithError } from "../../errors/index.js";
import type { CausalLm, Tokenizer } from "../../models/index.js";
import type { LogLikelihoodRequest } from "./loglikelihood.js";

/** Turns texts into requests as the harness does. */
export interface RequestEncoder {
  /** A continuation after a context, which may be empty. */
  pair(context: string, continuation: string): LogLikelihoodRequest;
  /** A whole text, cut into windows so that every token is predicted once with as much before it as fits. */
  rolling(text: string): LogLikelihoodRequest[];
  /** Ids of a prompt, of which the last `most` stay. */
  prompt(text: string, most: number): number[];
}

/** Throws `tokenizer-unsupported` for a model without tokenizer, or whose tokenizer has no token that begins a text. */
export function requestEncoder(model: CausalLm): RequestEncoder {
  const tokenizer = tokenizerOf(model);
  const prefix = prefixOf(model, tokenizer);
  const beginning = tokenizer.bosId === undefined ? undefined : tokenizer.idToToken(tokenizer.bosId);
  const encode = (text: string, addSpecialTokens = true): number[] => {
    // A text that begins with the token already gets no second one.
    const special = addSpecialTokens && !(beginning !== undefined && text.startsWith(beginning));
    return Array.from(tokenizer.encode(text, { addSpecialTokens: special }));
  };
  return {
    pair(context, continuation) {
      if (context === "") {
        const ids = encode(continuation, false);
        return ids[0] === prefix
          ? { context: ids.slice(0, 1), continuation: ids.slice(1) }
          : { context: [prefix], continuation: ids };
      }
      // Spaces at the end of the context belong to the continuation's first token.
      const kept = context.trimEnd();
      const before = encode(kept);
      return { context: before, continuation: encode(context + continuation).slice(before.length) };
    },
    rolling: (text) => rollingWindows(encode(text), prefix, model.sizes.maxPositions),
    prompt: (text, most) => encode(text).slice(-most),
  };
}

function tokenizerOf(model: CausalLm): Tokenizer {
  if (model.tokenizer) return model.tokenizer;
  throw new TunesmithError("tokenizer-unsupported", `${model.origin ?? "the model"} has no tokenizer`, {
    fix: "put its tokenizer files beside the model",
  });
}

/** What stands before a text that has nothing before it: the begin token, else the end token. */
function prefixOf(model: CausalLm, tokenizer: Tokenizer): number {
  const prefix = tokenizer.bosId ?? tokenizer.eosId;
  if (prefix !== undefined) return prefix;
  throw new TunesmithError(
    "tokenizer-unsupported",
    `${model.origin ?? "the tokenizer"} has no begin or end token`,
    {
      fix: "name one in tokenizer_config.json",
    },
  );
}

/**
 * Windows of a text: the first predicts as many tokens as fit after `prefix`; later ones predict what is left, with as
 * many tokens before it as fit.
 *
 * @param longest tokens that the model reads
 */
export function rollingWindows(
  ids: readonly number[],
  prefix: number,
  longest: number,
): LogLikelihoodRequest[] {
  const windows: LogLikelihoodRequest[] = [];
  if (ids.length === 0) return windows;
  const first = Math.min(longest, ids.length);
  windows.push({ context: [prefix], continuation: ids.slice(0, first) });
  for (let predicted = first; predicted < ids.length; ) {
    const count = Math.min(ids.length - predicted, longest);
    const end = predicted + count;
    windows.push({
      context: ids.slice(end - longest - 1, predicted),
      continuation: ids.slice(predicted, end),
    });
    predicted = end;
  }
  return windows;
}
