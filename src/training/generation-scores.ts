import { TunesmithError } from "../errors/index.js";
import { type CausalLm, createGenerator, type GenerateOptions } from "../models/index.js";
import type { SessionOptions } from "../runtime/index.js";
import type { Scorer } from "./fit-types.js";
import { scoreNamed } from "./scores/index.js";

export interface GenerationScoresOptions {
  /** What the model is asked, and what it should answer: one text, or several that are all right. */
  readonly examples: readonly { readonly prompt: string; readonly expected: string | readonly string[] }[];
  /** Scores over texts by name, such as `exact_match`, `rougeL`, `chrf`. */
  readonly scores: readonly string[];
  /** Default 64. */
  readonly maxTokens?: number;
  /** Text that ends an answer. Default: a line end. */
  readonly stop?: readonly string[];
  /** Prompts answered at a time. Default 8. */
  readonly batchSize?: number;
  readonly session?: SessionOptions;
}

/**
 * Scores of what the model writes, greedily, for `fit`'s `evaluators`: a falling loss does not say that answers get better.
 * The model is compiled for each evaluation and released after it, so that a step has the memory to itself.
 *
 * @throws `config-invalid` for a score that is not over texts, `data-empty` without examples.
 *
 * @example
 * ```ts
 * import type { CausalLm } from "tunesmith/models";
 * import { generationScores } from "tunesmith/training";
 * export const scorer = (model: CausalLm) =>
 *   generationScores(model, { examples: [{ prompt: "2 + 2 =", expected: "4" }], scores: ["exact_match"] });
 * ```
 */
export function generationScores(model: CausalLm, options: GenerationScoresOptions): Scorer {
  const { examples, maxTokens = 64, stop = ["\n"], batchSize = 8 } = options;
  const scores = options.scores.map(scoreNamed);
  const wrong = scores.find(({ needs }) => needs !== "text");
  if (wrong) {
    throw new TunesmithError(
      "config-invalid",
      `the score '${wrong.name}' is over ${wrong.needs}, not over texts`,
      {
        fix: "give scores over texts, such as exact_match, rougeL or chrf",
      },
    );
  }
  if (examples.length === 0) {
    throw new TunesmithError("data-empty", "generation scores have no examples", { fix: "give a few dozen" });
  }
  return async () => {
    const generator = await createGenerator(model, options.session);
    try {
      const settings: GenerateOptions = { maxTokens, temperature: 0, stop: [...stop] };
      const answered: { prediction: string; references: readonly string[] }[] = [];
      for (let at = 0; at < examples.length; at += batchSize) {
        const part = examples.slice(at, at + batchSize);
        const answers = await generator.generateBatch(
          part.map(({ prompt }) => prompt),
          settings,
        );
        for (const [row, { text }] of answers.entries()) {
          const expected = part[row]?.expected ?? "";
          answered.push({
            prediction: text.trim(),
            references: typeof expected === "string" ? [expected] : expected,
          });
        }
      }
      return Object.fromEntries(
        scores.map((score) => [score.name, score.statistic(score.prepare(answered))]),
      );
    } finally {
      await generator.close();
    }
  };
}
