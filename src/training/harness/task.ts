import { parseDocument, visit } from "yaml";
import { z } from "zod";
import { dirname, joinPath, readText } from "#io";
import { TunesmithError } from "../../errors/index.js";

const template = z.union([z.string(), z.number().int()]);
const files = z.union([z.string(), z.array(z.string())]);
const texts = z.union([z.string(), z.array(z.string())]);

const metric = z.looseObject({
  metric: z.string(),
  aggregation: z.string().optional(),
  higher_is_better: z.boolean().optional(),
});
const filter = z.strictObject({
  name: z.string(),
  filter: z.array(z.looseObject({ function: z.string() })).min(1),
});

const generation = z.strictObject({
  until: texts.optional(),
  max_gen_toks: z.number().int().min(1).optional(),
  max_new_tokens: z.number().int().min(1).optional(),
  max_tokens: z.number().int().min(1).optional(),
  do_sample: z.boolean().optional(),
  temperature: z.coerce.number().min(0).optional(),
  top_p: z.number().gt(0).max(1).optional(),
  top_k: z.number().int().min(1).optional(),
});

/** What a task file may say; names and defaults are those of the LM evaluation harness. */
export const taskSchema = z.strictObject({
  task: z.string().min(1),
  task_alias: z.string().optional(),
  tag: texts.optional(),
  group: texts.optional(),
  dataset_path: z.string().min(1),
  dataset_name: z.string().nullish(),
  dataset_kwargs: z
    .looseObject({
      data_files: z.union([files, z.record(z.string(), files)]).optional(),
      data_dir: z.string().optional(),
    })
    .optional(),
  training_split: z.string().nullish(),
  validation_split: z.string().nullish(),
  test_split: z.string().nullish(),
  fewshot_split: z.string().nullish(),
  fewshot_config: z
    .strictObject({
      sampler: z.enum(["default", "first_n"]).default("default"),
      split: z.string().optional(),
      samples: z.array(z.record(z.string(), z.unknown())).optional(),
    })
    .optional(),
  num_fewshot: z.number().int().min(0).nullish(),
  output_type: z
    .enum(["generate_until", "loglikelihood", "loglikelihood_rolling", "multiple_choice"])
    .default("generate_until"),
  description: z.string().default(""),
  doc_to_text: template,
  doc_to_target: z.union([template, z.array(z.union([z.string(), z.number()]))]),
  doc_to_choice: z
    .union([z.string(), z.array(z.string()), z.record(z.string(), z.string())])
    .nullish()
    .transform((value) => value ?? undefined),
  target_delimiter: z.string().default(" "),
  fewshot_delimiter: z.string().default("\n\n"),
  metric_list: z.array(metric).min(1).optional(),
  filter_list: z.array(filter).min(1).optional(),
  generation_kwargs: generation.optional(),
  repeats: z.literal(1).default(1),
  should_decontaminate: z.boolean().optional(),
  doc_to_decontamination_query: z.string().nullish(),
  metadata: z.record(z.string(), z.unknown()).optional(),
});

/** One task of the harness. */
export type HarnessTask = z.output<typeof taskSchema> & {
  /** The file it was read from; paths of data are looked for beside it. */
  readonly origin?: string;
};

/** Keys of the harness that stand for Python code or for what is not done here. */
const REFUSED: Readonly<Record<string, string>> = {
  process_docs: "Python code",
  process_results: "Python code",
  custom_dataset: "Python code",
  use_prompt: "prompts of promptsource",
  doc_to_image: "images",
  doc_to_audio: "audio",
  unsafe_code: "running generated code",
  gen_prefix: "a prefix of the answer",
};

/** Stands in for `!function NAME` until it is known whether another file overrides it. */
const FUNCTION = "\u0000!function ";

/**
 * Reads a task file of the LM evaluation harness, with what it includes. Values of the file win over included ones.
 *
 * @throws `file-not-found`; `format-unsupported` for `!function` and other Python code; `config-invalid` naming the key
 *   that is unknown or wrong.
 * @example
 * ```ts
 * import { loadTask } from "tunesmith/training";
 * const task = await loadTask("tasks/questions.yaml");
 * console.log(task.output_type, task.metric_list);
 * ```
 */
export async function loadTask(path: string): Promise<HarnessTask> {
  return { ...parseTask(await readLayers(path, []), path), origin: path };
}

/**
 * Checks a task given as plain data, as `loadTask` does.
 *
 * @param where for messages
 */
export function parseTask(values: Readonly<Record<string, unknown>>, where = "task"): HarnessTask {
  refuseCode(values, where, "");
  for (const [key, what] of Object.entries(REFUSED)) {
    if (values[key] === undefined || values[key] === null || values[key] === false) continue;
    throw unsupported(where, key, what);
  }
  const known = Object.fromEntries(Object.entries(values).filter(([key]) => !(key in REFUSED)));
  const read = taskSchema.safeParse(known);
  if (read.success) return read.data;
  const issue = read.error.issues[0];
  throw new TunesmithError(
    "config-invalid",
    `${where}: ${issue?.path.join(".") || "task"}: ${issue?.message}`,
    {
      fix: "correct the task file; docs/evaluation.md lists what is read",
      details: { issues: read.error.issues },
    },
  );
}

async function readLayers(path: string, above: readonly string[]): Promise<Record<string, unknown>> {
  if (above.includes(path)) {
    throw new TunesmithError("config-invalid", `${path} includes itself, by ${above.join(", ")}`, {
      fix: "remove the `include`",
    });
  }
  const { include, ...own } = parseYaml(path, await readText(path));
  let base: Record<string, unknown> = {};
  for (const name of [include ?? []].flat()) {
    const file = joinPath(dirname(path), String(name));
    base = { ...base, ...(await readLayers(file, [...above, path])) };
  }
  return { ...base, ...own };
}

function parseYaml(path: string, text: string): Record<string, unknown> {
  const document = parseDocument(text, { logLevel: "silent" });
  const [error] = document.errors;
  if (error) {
    throw new TunesmithError("config-invalid", `${path}: ${error.message}`, {
      fix: "correct the YAML",
      cause: error,
    });
  }
  visit(document, {
    Scalar(_, node) {
      if (node.tag === "!function") node.value = FUNCTION + String(node.value);
    },
  });
  const value: unknown = document.toJS();
  if (typeof value === "object" && value !== null && !Array.isArray(value))
    return value as Record<string, unknown>;
  throw new TunesmithError("config-invalid", `${path} holds no task`, {
    fix: "write keys and values, such as `task: name`",
  });
}

function refuseCode(value: unknown, where: string, key: string): void {
  if (typeof value === "string" && value.startsWith(FUNCTION)) {
    throw unsupported(where, key, `Python code (!function ${value.slice(FUNCTION.length)})`);
  }
  if (typeof value !== "object" || value === null) return;
  for (const [name, item] of Object.entries(value))
    refuseCode(item, where, key === "" ? name : `${key}.${name}`);
}

const unsupported = (where: string, key: string, what: string) =>
  new TunesmithError("format-unsupported", `${where}: '${key}' is ${what}, which is not run`, {
    fix: "prepare the data so that a template can read it, and remove the key",
    details: { key },
  });
