import { TunesmithError } from "../errors/index.js";
import type { TensorDescription, Wanted } from "./architectures/definition.js";
import { type AnyTensorArchitecture, tensorArchitectures } from "./architectures/index.js";
import { isRegression } from "./architectures/parts/labels.js";
import { parseConfig, unsupportedType } from "./causal-lm.js";
import { freshWeights, initializerRange } from "./init.js";
import { tensorInputs } from "./probe.js";
import type { TensorInputs, TensorModel, Weights } from "./types.js";
import { calledAsKeys, weightReader } from "./weights.js";

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
  const definition = tensorArchitectureFor(modelTypeOf(given), origin);
  if (options.part !== undefined) return partModel(definition, given, weights, options.part, options);
  const config = withLabels(given, options);
  const settings = parseConfig(definition, config, origin);
  const renamed = renameAll(definition, settings, weights);
  const own = definition.taskOf(settings, renamed);
  const task = taskFor(definition, own, options.task, origin);
  const complete = withHead({ definition, settings, weights: renamed, own, task }, options, origin);
  const description: TensorDescription = definition.describe(settings, task);
  const named = calledAsKeys(onlyUsed(definition, settings, complete, description, origin));
  return {
    ...description,
    ...(description.labels ? { labels: description.labels } : {}),
    architecture: modelTypeOf(given),
    weights: named,
    parameters: new Map(),
    config,
    tokenizer: options.tokenizer,
    origin: options.origin,
    build(inputs: TensorInputs) {
      return definition.build(settings, weightReader(named, origin), inputs, task);
    },
  } as TensorModel;
}

/** What a config calls its architecture: `model_type`, or `_class_name` in those of diffusers. */
export const modelTypeOf = ({ model_type, _class_name }: Readonly<Record<string, unknown>>): string =>
  String(model_type ?? _class_name);

/** One part of a model, with its own config and tensors. */
function partModel(
  { parts = {} }: AnyTensorArchitecture,
  given: Readonly<Record<string, unknown>>,
  weights: Weights,
  name: string,
  options: TensorModelOptions,
): TensorModel {
  const part = Object.hasOwn(parts, name) ? parts[name] : undefined;
  if (!part) {
    const known = Object.keys(parts).join(", ");
    throw new TunesmithError(
      "config-invalid",
      `${options.origin ?? "model"}: ${modelTypeOf(given)} has no part '${name}'`,
      { fix: known ? `its parts: ${known}` : "leave `part` out: it can only be loaded as a whole" },
    );
  }
  const own = new Map([...weights].filter(([key]) => part.keeps(key)));
  return tensorModel(part.config(given), own, { ...options, part: undefined });
}

/** A config for other classes: `id2label`, `label2id` and `num_labels` as the field writes them; one number for regression. */
export function withLabels(
  given: Readonly<Record<string, unknown>>,
  { task, labels: wanted }: Wanted,
): Readonly<Record<string, unknown>> {
  const becomesNumber = task === "regression" && !isRegression(given);
  const labels = wanted ?? (becomesNumber ? 1 : undefined);
  const config = becomesNumber ? { ...given, problem_type: "regression" } : given;
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

function renameAll(
  definition: AnyTensorArchitecture,
  settings: Record<string, unknown>,
  weights: Weights,
  task?: TensorModel["task"],
): Weights {
  const rename = (name: string) => definition.rename?.(name, settings, weights, task) ?? name;
  return new Map([...weights].map(([name, value]) => [rename(name), value] as const));
}

interface Heads {
  readonly definition: AnyTensorArchitecture;
  readonly settings: Record<string, unknown>;
  readonly weights: Weights;
  /** The task the file is for, and the one it is wanted for. */
  readonly own: TensorModel["task"];
  readonly task: TensorModel["task"];
}

/**
 * The weights a task needs: those there are, and a fresh head where the file has none, or one for other classes. Only
 * tensors that the file's own task does not need may be fresh, so that a hole in a checkpoint is an error.
 */
function withHead(
  { definition, settings, weights, own, task }: Heads,
  { labels, seed = 0 }: Wanted,
  origin: string,
): Weights {
  const rename = (name: string) => definition.rename?.(name, settings, weights, task) ?? name;
  const ownNames = new Set(definition.weightSpecs(settings, own).map(({ name }) => rename(name)));
  const result = new Map(renameAll(definition, settings, weights, task));
  const specs = definition.weightSpecs(settings, task);
  const std = initializerRange(settings);
  for (const spec of specs) {
    const found = result.get(spec.name)?.shape;
    if (found && found.join() === spec.shape.join()) continue;
    const isHead = !ownNames.has(spec.name) || (found && labels !== undefined && spec.head === true);
    if (isHead) {
      for (const [name, value] of freshWeights([spec], { seed, std })) result.set(name, value);
    } else if (found) {
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
  const used = new Set(specs.map(({ name }) => name));
  for (const name of ownNames) if (!used.has(name)) result.delete(name);
  return result;
}

/** The weights that the forward pass reads. What is left over must be known to be needless. */
function onlyUsed(
  definition: AnyTensorArchitecture,
  settings: Record<string, unknown>,
  weights: Weights,
  description: TensorDescription,
  origin: string,
): Weights {
  const reader = weightReader(weights, origin);
  definition.build(settings, reader, tensorInputs(description), description.task);
  const unused = new Set(reader.unused());
  checkUsed([...unused], definition.ignored, origin, String(definition.modelTypes[0]));
  return new Map([...weights].filter(([name]) => !unused.has(name)));
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

export interface InitTensorOptions extends TensorModelOptions {
  /** Seed of all weights. Default 0. */
  readonly seed?: number | undefined;
}

/**
 * A model with fresh random weights, as `initModel` makes language models: Gaussian matrices of the config's
 * `initializer_range` (or the architecture's own scales), norms that change nothing, biases of zero. Each tensor's numbers
 * depend on the seed and its name alone.
 *
 * Throws `config-invalid`, `architecture-unsupported`, `task-mismatch`.
 *
 * @param given What `config.json` would say, with `model_type`.
 * @example
 * ```ts
 * import { initTensorModel } from "tunesmith/models";
 * const sizes = { vocab_size: 512, hidden_size: 64, intermediate_size: 128, num_hidden_layers: 2, num_attention_heads: 4 };
 * const model = initTensorModel({ model_type: "bert", ...sizes }, { task: "sequence-classification", labels: ["no", "yes"] });
 * console.log(model.weights.size);
 * ```
 */
export function initTensorModel(
  given: Readonly<Record<string, unknown>>,
  options: InitTensorOptions = {},
): TensorModel {
  const origin = options.origin ?? "model";
  const definition = tensorArchitectureFor(modelTypeOf(given), origin);
  const config = withLabels(given, options);
  const settings = parseConfig(definition, config, origin);
  const task = taskFor(definition, definition.taskOf(settings, new Map()), options.task, origin);
  const std = initializerRange(config);
  const weights = freshWeights(definition.weightSpecs(settings, task), { std, seed: options.seed ?? 0 });
  return tensorModel(config, weights, { ...options, task });
}
