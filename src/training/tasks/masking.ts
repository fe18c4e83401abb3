import { TunesmithError } from "../../errors/index.js";
import type { Tokenizer } from "../../models/index.js";
import { type Rng, rng, type StreamKey } from "../../runtime/random/index.js";
import { IGNORED } from "./tokens.js";

export interface MaskOptions {
  /** Share of the tokens that are to be found. Default 0.15. */
  readonly share?: number | undefined;
  /** Hide whole spans instead of single tokens (arXiv 1907.10529): geometric lengths of p = 0.2, at most 10. Default false. */
  readonly spans?: boolean | undefined;
}

/** Of the chosen tokens, so many become the mask token, so many another token; the rest stay (arXiv 1810.04805). */
const MASKED = 0.8;
const SWAPPED = 0.1;
const SPAN = { end: 0.2, most: 10 };

/**
 * Hides tokens: their labels are what they were, all others −100. The choice follows the seed and `stream` alone; at least one
 * token is chosen. Throws `tokenizer-unsupported` without a mask token.
 */
export function maskedIds(
  tokenizer: Tokenizer,
  ids: Int32Array,
  options: MaskOptions & { readonly seed?: number | undefined; readonly stream: readonly StreamKey[] },
): { readonly ids: number[]; readonly labels: number[] } {
  const { share = 0.15, spans = false, seed = 0, stream } = options;
  const mask = tokenizer.tokenToId("[MASK]") ?? tokenizer.tokenToId("<mask>");
  if (mask === undefined) {
    throw new TunesmithError("tokenizer-unsupported", "the tokenizer has no mask token", {
      fix: "masked language models have one: [MASK] or <mask>",
    });
  }
  const random = rng(seed, "mask", ...stream);
  const usable = Array.from(ids.keys()).filter((at) => !tokenizer.specialIds.has(ids[at] as number));
  const count = Math.min(usable.length, Math.max(1, Math.round(share * usable.length)));
  const chosen = spans ? chosenSpans(random, usable, count) : chosenTokens(random, usable, count);
  const out = Array.from(ids);
  const labels = new Array<number>(ids.length).fill(IGNORED);
  for (const at of chosen) {
    labels[at] = ids[at] as number;
    const draw = random.uniform();
    if (draw < MASKED) out[at] = mask;
    else if (draw < MASKED + SWAPPED) out[at] = Math.floor(random.uniform() * tokenizer.vocabSize);
  }
  return { ids: out, labels };
}

const chosenTokens = (random: Rng, usable: readonly number[], count: number): number[] =>
  Array.from(random.permutation(usable.length).slice(0, count), (at) => usable[at] as number).sort(
    (a, b) => a - b,
  );

function chosenSpans(random: Rng, usable: readonly number[], count: number): number[] {
  const chosen = new Set<number>();
  while (chosen.size < count) {
    let length = 1;
    while (length < SPAN.most && random.uniform() >= SPAN.end) length++;
    const start = Math.floor(random.uniform() * usable.length);
    for (let at = start; at < Math.min(usable.length, start + length) && chosen.size < count; at++)
      chosen.add(usable[at] as number);
  }
  return [...chosen].sort((a, b) => a - b);
}
