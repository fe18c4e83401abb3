import { TunesmithError } from "../../errors/index.js";
import type { Adapter } from "../adapter.js";
import type { Adaptation, Method, SiteConfig } from "../method.js";
import { type PeftConfig, parsePart, peftSchema } from "./config-part.js";
import type { PeftMapping } from "./mapping.js";
import { mappingFor } from "./mappings.js";

const invalid = (file: string, what: string, cause?: unknown) =>
  new TunesmithError("adapter-invalid", `${file}: ${what}`, {
    fix: "compare it with a file that PEFT wrote",
    ...(cause === undefined ? {} : { cause }),
  });

/** Parses `adapter_config.json`. Throws `adapter-invalid` naming file, key and what to do. */
export const parsePeftConfig = (json: Readonly<Record<string, unknown>>, file: string): PeftConfig =>
  parsePart(peftSchema, json, file);

const list = (value: string | readonly string[] | null | undefined) =>
  typeof value === "string" || value === undefined ? value : value === null ? undefined : [...value];

/** The adaptation a PEFT config describes. Throws `adapter-invalid` for a value that its method cannot take. */
export function adaptationOf(
  config: PeftConfig,
  file: string,
  methods?: readonly Method<SiteConfig>[],
): { readonly adaptation: Adaptation; readonly mapping: PeftMapping } {
  const mapping = mappingFor(config, file, methods);
  const given = { ...commonOptions(config, mapping, file), ...mapping.options(config, file) };
  const parsed = mapping.method.schema.safeParse(given);
  if (parsed.success) return { mapping, adaptation: { method: mapping.method, config: parsed.data } };
  const issue = parsed.error.issues[0];
  throw invalid(file, `${mapping.method.name}: ${issue?.path.join(".")}: ${issue?.message}`, parsed.error);
}

function commonOptions(config: PeftConfig, { biasOnly }: PeftMapping, file: string): Record<string, unknown> {
  const bias = config.bias ?? "none";
  const known = bias === "none" || bias === "all" || bias === biasOnly;
  if (!known) throw invalid(file, `bias '${bias}' is not known`);
  return {
    bias: bias === biasOnly ? "adapted" : bias,
    targets: list(config.target_modules),
    exclude: list(config.exclude_modules),
    layers: config.layers_to_transform == null ? undefined : [config.layers_to_transform].flat(),
    layersPattern: list(config.layers_pattern),
    modulesToSave: config.modules_to_save ?? undefined,
    trainableTokens: config.trainable_token_indices ?? undefined,
  };
}

const TASK_TYPES: Readonly<Record<string, string>> = {
  "causal-lm": "CAUSAL_LM",
  "sequence-classification": "SEQ_CLS",
  "token-classification": "TOKEN_CLS",
  "question-answering": "QUESTION_ANS",
  seq2seq: "SEQ_2_SEQ_LM",
  embedding: "FEATURE_EXTRACTION",
};

/** The whole of an adapter's config file. */
export function peftConfigOf(
  adapter: Adapter,
  mapping: PeftMapping,
  context: { readonly targets: string | readonly string[]; readonly base: string; readonly task: string },
): Record<string, unknown> {
  const { config } = adapter.adaptation;
  return {
    auto_mapping: null,
    base_model_name_or_path: context.base,
    bias: config.bias === "adapted" ? (mapping.biasOnly ?? "none") : (config.bias ?? "none"),
    exclude_modules: config.exclude ?? null,
    inference_mode: true,
    layers_pattern: config.layersPattern ?? null,
    layers_to_transform: config.layers ?? null,
    modules_to_save: config.modulesToSave ?? null,
    peft_type: mapping.peftType,
    revision: null,
    target_modules: context.targets,
    task_type: TASK_TYPES[context.task] ?? null,
    ...(config.trainableTokens === undefined ? {} : { trainable_token_indices: config.trainableTokens }),
    ...mapping.config(config, adapter),
  };
}
