import { TunesmithError } from "../errors/index.js";
import type { TensorDescription, Wanted } from "./architectures/definition.js";
import { type AnyTensorArchitecture, tensorArchitectures } from "./architectures/index.js";
import { parseConfig, unsupportedType } from "./causal-lm.js";
import { freshWeights } from "./init.js";
import type { TensorInputs, TensorModel, Weights } from "./types.js";
import { weightReader } from "./weights.js";

export interface TensorModelOptions extends Wanted {
  readonly origin?: string | undefined;
  readonly tokenizer?: TensorModel["tokenizer"];
}

/** The definition answering to `model_type`; throws `architecture-unsupported`. */
export function tensorArchitectureFor(modelType: string, origin: string): AnyTensorArchitecture {
  const found = tensorArchitectures.find((definition) => definition.modelTypes.includes(modelType));
  if (found) return found;
  throw unsupportedType(modelType, origin);
}

/**
 * A model of a known architecture other than causal language models, over named weights and the `config.json` that
 * describes them. When another task is asked for than the file has a head for, the head is fresh: its numbers depend on
 * the seed and its tensors' names.
 *
 * Throws `config-invalid`, `architecture-unsupported`, `task-mismatch` (the architecture has no such head),
 * `shape-mismatch`, `tensor-not-found`, `tensor-unused`.
 */
export function tensorModel(
  given: Readonly<Record<string, unknown>>,
  weights: Weights,
  options: TensorModelOptions = {},
): TensorModel {
  const origin = options.origin ?? "model";
  const definition = tensorArchitectureFor(String(given.model_type), origin);
  const config = withLabels(given, options.labels);
  const settings = parseConfig(definition, config, origin);
  const renamed = new Map(
    [...weights].map(
      ([name, value]) => [definition.rename?.(name, settings, weights) ?? name, value] as const,
    ),
  );
  const own = definition.taskOf(settings, renamed);
  const task = taskFor(definition, own, options.task, origin);
  const named = withHead(definition, settings, renamed, task, options, origin);
  const description: TensorDescription = definition.describe(settings, task);
  return {
    ...description,
    ...(description.labels ? { labels: description.labels } : {}),
    architecture: String(given.model_type),
    weights: named,
    parameters: new Map(),
    config,
    tokenizer: options.tokenizer,
    origin: options.origin,
    build(inputs: TensorInputs) {
      const reader = weightReader(named, origin);
      const outputs = definition.build(settings, reader, inputs, task);
      checkUsed(reader.unused(), definition.ignored, origin, String(given.model_type));
      return outputs;
    },
  } as TensorModel;
}

/** A config for other classes: `id2label`, `label2id` and `num_labels` as the field writes them. */
function withLabels(
  config: Readonly<Record<string, unknown>>,
  labels: Wanted["labels"],
): Readonly<Record<string, unknown>> {
  if (labels === undefined) return config;
  const names =
    typeof labels === "number" ? Array.from({ length: labels }, (_, at) => `LABEL_${at}`) : labels;
  return {
    ...config,
    num_labels: names.length,
    id2label: Object.fromEntries(names.map((name, at) => [String(at), name])),
    label2id: Object.fromEntries(names.map((name, at) => [name, at])),
  };
}

function taskFor(
  definition: AnyTensorArchitecture,
  own: TensorModel["task"],
  wanted: Wanted["task"] | "auto",
  origin: string,
): TensorModel["task"] {
  if (wanted === undefined || wanted === "auto" || wanted === own) return own;
  if (wanted !== "causal-lm" && definition.tasks.includes(wanted)) return wanted;
  throw new TunesmithError("task-mismatch", `${origin}: no head for ${wanted}`, {
    fix: `this architecture has heads for ${definition.tasks.join(", ")}`,
  });
}

/**
 * The weights a task needs: those there are, and a fresh head where the file has none, or one for other classes. Only
 * tensors that the file's own task does not need may be fresh, so that a hole in a checkpoint is an error.
 */
function withHead(
  definition: AnyTensorArchitecture,
  settings: Record<string, unknown>,
  weights: Weights,
  task: TensorModel["task"],
  { labels, seed = 0 }: Wanted,
  origin: string,
): Weights {
  const own = definition.taskOf(settings, weights);
  const bodyNames = new Set(definition.weightSpecs(settings, own).map(({ name }) => name));
  const result = new Map(weights);
  for (const spec of definition.weightSpecs(settings, task)) {
    const found = weights.get(spec.name)?.shape;
    if (found && found.join() === spec.shape.join()) continue;
    const isHead = !bodyNames.has(spec.name) || (labels !== undefined && spec.head === true);
    if (isHead) for (const [name, value] of freshWeights([spec], { seed })) result.set(name, value);
    else if (found) {
      throw new TunesmithError(
        "shape-mismatch",
        `${origin}: tensor '${spec.name}' is [${found.join(", ")}], config.json asks for [${spec.shape.join(", ")}]`,
        {
          fix: "use the config.json that came with the checkpoint; for other classes give `labels`",
          details: { tensor: spec.name },
        },
      );
    }
  }
  // Heads of other tasks have no place in this one's graph.
  const used = new Set(definition.weightSpecs(settings, task).map(({ name }) => name));
  for (const name of bodyNames) if (!used.has(name)) result.delete(name);
  return result;
}

function checkUsed(unused: readonly string[], ignored: RegExp, origin: string, modelType: string): void {
  const foreign = unused.filter((name) => !ignored.test(name));
  if (foreign.length === 0) return;
  throw new TunesmithError(
    "tensor-unused",
    `${origin}: ${foreign.length} tensors have no place in ${modelType}: ${foreign.slice(0, 5).join(", ")}`,
    { fix: "the config.json does not describe this checkpoint", details: { unused: foreign } },
  );
}
