import { TunesmithError } from "../errors/index.js";
import { type AnyDefinition, architectures, tensorArchitectures } from "./architectures/index.js";
import type { CausalLm, LmInputs, Weights } from "./types.js";
import { calledAsKeys, weightReader } from "./weights.js";

/** The definition answering to `model_type`; throws `architecture-unsupported` listing those we have. */
export function architectureFor(modelType: string, origin: string): AnyDefinition {
  const found = architectures.find((definition) => definition.modelTypes.includes(modelType));
  if (found) return found;
  const other = tensorArchitectures.some((definition) => definition.modelTypes.includes(modelType));
  if (other) {
    throw new TunesmithError("task-mismatch", `${origin}: '${modelType}' is not a causal language model`, {
      fix: 'load it with { task: "auto" }, or name its task',
    });
  }
  throw unsupportedType(modelType, origin);
}

/** The error for a `model_type` nobody here knows. */
export function unsupportedType(modelType: string, origin: string): TunesmithError {
  const known = [...architectures, ...tensorArchitectures].flatMap(({ modelTypes }) => modelTypes);
  return new TunesmithError(
    "architecture-unsupported",
    `${origin}: model_type '${modelType}' is not supported`,
    { fix: `supported: ${known.join(", ")}; or export the model to ONNX and load that` },
  );
}

/** The architecture's own reading of a config. Throws `config-invalid` naming the entry. */
export function parseConfig(
  definition: Pick<AnyDefinition, "schema">,
  config: Readonly<Record<string, unknown>>,
  origin: string,
): Record<string, unknown> {
  const parsed = definition.schema.safeParse(config);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  throw new TunesmithError(
    "config-invalid",
    `${origin}: config.json: ${issue?.path.join(".")}: ${issue?.message}`,
    {
      fix: "compare it with the config of the original checkpoint",
    },
  );
}

export interface BuildOptions {
  readonly origin?: string | undefined;
  readonly tokenizer?: CausalLm["tokenizer"];
}

/**
 * A causal language model over named weights and the `config.json` that describes them. Throws `config-invalid`,
 * `architecture-unsupported`, `shape-mismatch` (a weight of another size than the config says), `tensor-not-found`,
 * `tensor-unused` (a weight the architecture has no place for).
 */
export function causalLm(
  config: Readonly<Record<string, unknown>>,
  weights: Weights,
  options: BuildOptions = {},
): CausalLm {
  const origin = options.origin ?? "model";
  const definition = architectureFor(String(config.model_type), origin);
  const settings = parseConfig(definition, config, origin);
  checkHeads(definition, settings, origin);
  const named = normaliseNames(definition, weights, definition.tied(settings));
  checkShapes(definition, settings, named, origin);
  return {
    task: "causal-lm",
    architecture: String(config.model_type),
    sizes: definition.sizes(settings),
    weights: named,
    parameters: new Map(),
    config,
    defaultTargets: definition.defaultTargets,
    tokenizer: options.tokenizer,
    origin: options.origin,
    build(inputs: LmInputs) {
      const reader = weightReader(named, origin);
      const outputs = definition.build(settings, reader, inputs);
      const unused = reader.unused().filter((name) => !definition.ignored.test(name));
      if (unused.length > 0) {
        throw new TunesmithError(
          "tensor-unused",
          `${origin}: ${unused.length} tensors have no place in ${config.model_type}: ${unused.slice(0, 5).join(", ")}`,
          {
            fix: "the config.json does not describe this checkpoint",
            details: { unused },
          },
        );
      }
      return outputs;
    },
  };
}

const OTHER_CONFIG = "the config.json does not describe this checkpoint: use the one that came with it";

/** Heads share the width evenly, and groups of query heads share key heads. */
function checkHeads(definition: AnyDefinition, settings: Record<string, unknown>, origin: string): void {
  const { heads, kvHeads, headDim, hiddenSize } = definition.sizes(settings);
  const shares = Number.isInteger(headDim) && heads % kvHeads === 0;
  if (shares) return;
  throw new TunesmithError(
    "config-invalid",
    `${origin}: config.json: ${heads} heads (${kvHeads} for keys and values) do not share a width of ${hiddenSize}`,
    { fix: OTHER_CONFIG },
  );
}

/** Compares the weights that are there with the sizes the config speaks of; one that is missing is found by its reader. */
function checkShapes(
  definition: AnyDefinition,
  settings: Record<string, unknown>,
  weights: Weights,
  origin: string,
): void {
  // A count that no file bears out must not be laid out in memory.
  if (definition.sizes(settings).layers > weights.size) return;
  for (const { name, shape } of definition.weightSpecs(settings)) {
    const found = weights.get(name)?.shape;
    if (!found || found.join() === shape.join()) continue;
    throw new TunesmithError(
      "shape-mismatch",
      `${origin}: tensor '${name}' is [${found.join(", ")}], config.json asks for [${shape.join(", ")}]`,
      { fix: OTHER_CONFIG, details: { tensor: name } },
    );
  }
}

/** Gives bare-body checkpoints their body prefix, and drops the stored copy of a tied head. */
function normaliseNames(definition: AnyDefinition, weights: Weights, tied: boolean): Weights {
  const { output, input } = definition.tieable;
  const bare = !weights.has(input) && weights.has(input.slice(definition.prefix.length + 1));
  const named = new Map(
    [...weights].map(
      ([name, value]) => [bare && name !== output ? `${definition.prefix}.${name}` : name, value] as const,
    ),
  );
  if (tied) named.delete(output);
  return calledAsKeys(named);
}
