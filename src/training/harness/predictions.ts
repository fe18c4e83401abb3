import { scoreNamed } from "../scores/registry.js";
import type { HarnessResults } from "./run.js";

/** What stands for the output type in results without a model. */
export const PREDICTIONS = "predictions";

/**
 * Scores examples that were predicted already, with results in the layout of `runTasks`.
 *
 * @param name of the task in the results
 * @param examples of the kind that the metrics need, such as `{ prediction, references }`
 * @param metrics names of scores
 * @throws `config-invalid` for an unknown metric; `data-invalid` for an example of another kind; `data-empty`.
 * @example
 * ```ts
 * import { scorePredictions } from "tunesmith/training";
 * const { results } = scorePredictions("answers", [{ prediction: "a b", references: "a b c" }], ["bleu", "rougeL"]);
 * ```
 */
export function scorePredictions(
  name: string,
  examples: readonly unknown[],
  metrics: readonly string[],
): HarnessResults {
  const scored = metrics.map((metric) => {
    const score = scoreNamed(metric);
    return { metric, score, items: score.prepare(examples, name) };
  });
  const one = <T>(value: T) => ({ [name]: value });
  const values = scored.map(({ metric, score, items }) => [`${metric},none`, score.statistic(items)]);
  return {
    results: one({ name, alias: name, sample_len: examples.length, ...Object.fromEntries(values) }),
    configs: one({
      task: name,
      output_type: PREDICTIONS,
      metric_list: metrics.map((metric) => ({ metric })),
    }),
    versions: one("Yaml"),
    "n-shot": one(0),
    higher_is_better: one(
      Object.fromEntries(scored.map(({ metric, score }) => [metric, score.better === "higher"])),
    ),
    "n-samples": one({ original: examples.length, effective: examples.length }),
    samples: one(
      examples.map((example, at) => ({
        doc_id: at,
        doc: example as Record<string, unknown>,
        target: null,
        arguments: [],
        resps: [],
        filter: "none",
        filtered_resps: [],
        metrics: Object.fromEntries(scored.map(({ metric, items }) => [metric, items[at]])),
      })),
    ),
  };
}
