import { z } from "zod";
import { TunesmithError } from "../../errors/index.js";
import type { Rng } from "../../runtime/random/index.js";

/** How the next token is chosen from the logits. */
export const samplingSchema = z.object({
  temperature: z
    .number()
    .min(0)
    .default(0)
    .describe("0 takes the likeliest token; 1 samples from the model as it is"),
  topK: z.number().int().min(1).optional().describe("sample among this many likeliest tokens"),
  topP: z
    .number()
    .gt(0)
    .max(1)
    .optional()
    .describe("sample among the likeliest tokens that together have this probability"),
  minP: z
    .number()
    .min(0)
    .max(1)
    .optional()
    .describe("drop tokens less likely than this fraction of the likeliest"),
  repetitionPenalty: z
    .number()
    .gt(0)
    .default(1)
    .describe("above 1 makes tokens that were there already less likely"),
});
export type SamplingOptions = z.input<typeof samplingSchema>;
export type Sampling = z.output<typeof samplingSchema>;

/**
 * Chooses the next token. Penalty, temperature, top-k, top-p and min-p act in this order, as in transformers.
 * Throws `numerical-failure` when the logits are not numbers.
 *
 * @param logits `[vocab]`, left as they are.
 * @param seen Tokens of the prompt and of the text so far, for the repetition penalty.
 * @example
 * ```ts
 * import { chooseToken, samplingSchema } from "tunesmith/models";
 * import { rng } from "tunesmith/runtime";
 * const sampling = samplingSchema.parse({ temperature: 0.8, topK: 2 });
 * const id = chooseToken(Float32Array.of(0.1, 2, 1.5), [], sampling, rng(1)); // 1 or 2
 * ```
 */
export function chooseToken(
  logits: Float32Array,
  seen: Iterable<number>,
  sampling: Sampling,
  random: Rng,
): number {
  checkLogits(logits);
  const penalised = repetitionPenalty(logits, seen, sampling.repetitionPenalty);
  return sampling.temperature === 0 ? argMax(penalised) : draw(distribution(penalised, sampling), random);
}

/** What is sampled from at a temperature above 0: the tokens that the filters leave. */
export function distribution(logits: Float32Array, { temperature, topK, topP, minP }: Sampling): Candidate[] {
  let candidates = candidatesOf(logits, temperature, topK);
  if (topP !== undefined && topP < 1) candidates = nucleus(candidates, topP);
  if (minP !== undefined && minP > 0) candidates = aboveFraction(candidates, minP);
  const total = candidates.reduce((sum, { probability }) => sum + probability, 0);
  return candidates.map(({ id, probability }) => ({ id, probability: probability / total }));
}

/** Throws `numerical-failure` for NaN and +infinity, and when no token is possible. */
function checkLogits(logits: Float32Array): void {
  let possible = false;
  for (let id = 0; id < logits.length; id++) {
    const value = logits[id] as number;
    if (Number.isNaN(value) || value === Number.POSITIVE_INFINITY)
      throw badLogits(`the logit of token ${id} is ${value}`);
    possible ||= value > Number.NEGATIVE_INFINITY;
  }
  if (!possible) throw badLogits("no token is possible");
}

const badLogits = (what: string) =>
  new TunesmithError("numerical-failure", `the model's output cannot be sampled from: ${what}`, {
    fix: "check the weights and adapters for NaN and for overflow (a too high learning rate, a half-precision merge)",
  });

/** Divides positive logits of seen tokens by the penalty and multiplies negative ones (arXiv 1909.05858, as transformers). */
export function repetitionPenalty(
  logits: Float32Array,
  seen: Iterable<number>,
  penalty: number,
): Float32Array {
  if (penalty === 1) return logits;
  const result = logits.slice();
  for (const id of new Set(seen)) {
    const value = result[id];
    if (value !== undefined) result[id] = value < 0 ? value * penalty : value / penalty;
  }
  return result;
}

/** The first of the largest values. */
export function argMax(values: Float32Array): number {
  let best = 0;
  for (let at = 1; at < values.length; at++) if ((values[at] as number) > (values[best] as number)) best = at;
  return best;
}

/** A token with its probability. Lists are in descending order; after a filter they need not add up to 1. */
export interface Candidate {
  readonly id: number;
  readonly probability: number;
}

/** softmax(logits / temperature) over the `topK` largest (ties with the last one included), likeliest first. */
export function candidatesOf(logits: Float32Array, temperature: number, topK = logits.length): Candidate[] {
  const threshold =
    topK < logits.length ? (logits.toSorted()[logits.length - topK] as number) : Number.NEGATIVE_INFINITY;
  const ids: number[] = [];
  logits.forEach((value, id) => {
    if (value >= threshold && value > Number.NEGATIVE_INFINITY) ids.push(id);
  });
  ids.sort((a, b) => (logits[b] as number) - (logits[a] as number) || a - b);
  const largest = logits[ids[0] as number] as number;
  const weights = ids.map((id) => Math.exp(((logits[id] as number) - largest) / temperature));
  const total = weights.reduce((a, b) => a + b, 0);
  return ids.map((id, at) => ({ id, probability: (weights[at] as number) / total }));
}

/** The fewest likeliest tokens whose probabilities reach `p`; at least one (arXiv 1904.09751). */
export function nucleus(candidates: readonly Candidate[], p: number): Candidate[] {
  const total = candidates.reduce((sum, { probability }) => sum + probability, 0);
  let reached = 0;
  const cut = candidates.findIndex(({ probability }) => {
    reached += probability / total;
    return reached >= p;
  });
  return candidates.slice(0, cut < 0 ? candidates.length : cut + 1);
}

/** Tokens at least `fraction` as likely as the likeliest (arXiv 2407.01082). */
export function aboveFraction(candidates: readonly Candidate[], fraction: number): Candidate[] {
  const least = (candidates[0]?.probability ?? 0) * fraction;
  return candidates.filter(({ probability }) => probability >= least);
}

function draw(candidates: readonly Candidate[], random: Rng): number {
  let left = random.uniform();
  for (const { id, probability } of candidates) {
    left -= probability;
    if (left < 0) return id;
  }
  return candidates.at(-1)?.id as number;
}
