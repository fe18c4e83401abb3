import { basename } from "#io";
import { TunesmithError } from "../../errors/index.js";
import { readRows } from "./documents.js";
import { type HarnessTask, parseTask } from "./task.js";

/** Tasks that need no file of their own: what is asked follows from the fields of the data. */
export type DataTaskKind = "generate" | "choices" | "classify";

export interface DataTaskOptions {
  readonly metrics?: readonly string[];
  /** Field with the question. Default: the first of `prompt`, `question`, `instruction`, `input`, `text`. */
  readonly promptField?: string;
  /** Field with the answer. Default: the first of `references`, `completion`, `answer`, `output`, `target`, `label`. */
  readonly targetField?: string;
  /** Names of the classes; default: the labels that occur. */
  readonly labels?: readonly string[];
  /** Between question and answer. Default a space for classes and choices, nothing where the model writes. */
  readonly delimiter?: string;
  /** Most new tokens; default 64. */
  readonly maxTokens?: number;
  /** Texts that end an answer; default a line end. */
  readonly stop?: readonly string[];
}

const PROMPTS = ["prompt", "question", "instruction", "input", "text"];
const TARGETS = ["references", "completion", "answer", "output", "target", "label"];

/**
 * A task over a data file: `generate` lets the model write and compares texts, `choices` asks for the likeliest of each
 * row's `choices`, `classify` for the likeliest label.
 *
 * @throws `data-invalid` when the fields are not there; what reading the file throws.
 * @example
 * ```ts
 * import { loadModel } from "tunesmith/models";
 * import { dataTask, runTasks } from "tunesmith/training";
 * const task = await dataTask("answers.jsonl", "generate", { metrics: ["exact_match", "rougeL"] });
 * const { results } = await runTasks(await loadModel("path/to/model"), [task]);
 * ```
 */
export async function dataTask(
  path: string,
  kind: DataTaskKind,
  options: DataTaskOptions = {},
): Promise<HarnessTask> {
  const rows = await readRows(path, path);
  const fields = typeof rows[0] === "object" && rows[0] !== null ? Object.keys(rows[0]) : [];
  const field = (given: string | undefined, known: readonly string[], flag: string): string => {
    const found = given === undefined ? known.find((name) => fields.includes(name)) : given;
    if (found !== undefined && fields.includes(found)) return found;
    throw new TunesmithError("data-invalid", `${path}: no field '${given ?? known.join("' or '")}'`, {
      fix: `name one of ${fields.join(", ") || "none"} with ${flag}`,
    });
  };
  const prompt = field(options.promptField, PROMPTS, "--prompt-field");
  const target = field(
    options.targetField,
    TARGETS.filter((name) => name !== prompt),
    "--target-field",
  );
  const common = {
    task: basename(path).replace(/\.\w+$/, ""),
    dataset_path: path,
    test_split: "test",
    doc_to_text: prompt,
    doc_to_target: target,
    ...(options.metrics ? { metric_list: options.metrics.map((metric) => ({ metric })) } : {}),
  };
  if (kind === "generate") {
    return parseTask({
      ...common,
      output_type: "generate_until",
      generation_kwargs: { until: [...(options.stop ?? ["\n"])], max_gen_toks: options.maxTokens ?? 64 },
    });
  }
  const choices =
    kind === "choices" ? field("choices", [], "a field 'choices'") : labelsOf(path, rows, target, options);
  return parseTask({
    ...common,
    output_type: "multiple_choice",
    doc_to_choice: choices,
    target_delimiter: options.delimiter ?? " ",
    ...(kind === "classify" && !options.metrics
      ? { metric_list: [{ metric: "accuracy" }, { metric: "f1_macro" }] }
      : {}),
  });
}

function labelsOf(
  path: string,
  rows: readonly unknown[],
  target: string,
  { labels }: DataTaskOptions,
): string[] {
  if (labels) return [...labels];
  const found = [...new Set(rows.map((row) => (row as Record<string, unknown>)[target]))];
  if (found.length > 1 && found.every((label) => typeof label === "string")) return found.sort();
  throw new TunesmithError(
    "data-invalid",
    `${path}: labels in '${target}' are no names of two or more classes`,
    {
      fix: "give their names with --labels, in the order of their numbers",
    },
  );
}
