import { TunesmithError } from "../errors/index.js";
import { ops, type Value, type Visit, withScope } from "../graph/index.js";
import {
  type CausalLm,
  dropout,
  type LmInputs,
  type LmOutputs,
  type Parameter,
  rewriteOutputs,
  type Site,
  siteOf,
} from "../models/index.js";
import type { Adapter, AdapterSite } from "./adapter.js";
import { effectiveWeight, valuesOf } from "./effective.js";
import { plainFields } from "./fields.js";
import type { SiteCall } from "./method.js";
import { sameOperator, withSaved } from "./saved.js";
import { embedTokens, scoreTokens } from "./tokens.js";

/** A model with adapters on it. It is a causal language model like its base, with parameters. */
export interface AdaptedLm extends CausalLm {
  readonly base: CausalLm;
  readonly adapters: ReadonlyMap<string, Adapter>;
  /** Names of the adapters in use, applied in this order. */
  readonly active: readonly string[];
}

/** Whether a model carries adapters, active or not. */
export const isAdapted = (model: CausalLm): model is AdaptedLm => "adapters" in model;

/** The model with other adapters switched on; their tensors are shared with `model`, not copied. */
export function adaptedLm(
  base: CausalLm,
  adapters: ReadonlyMap<string, Adapter>,
  active: readonly string[],
): AdaptedLm {
  const used = active.map((name) => {
    const adapter = adapters.get(name);
    if (adapter) return adapter;
    throw new TunesmithError("adapter-invalid", `no adapter '${name}' on this model`, {
      fix: `adapters: ${[...adapters.keys()].join(", ") || "none"}`,
    });
  });
  const parameters = new Map<string, Parameter>(base.parameters);
  for (const adapter of adapters.values())
    for (const entry of adapter.parameters.values()) parameters.set(entry.name, entry);
  return {
    ...plainFields(base),
    base,
    adapters,
    active,
    parameters,
    build: (inputs: LmInputs) => applyAdapters(base.build(inputs), used, inputs.training === true),
  };
}

/** Rewrites a forward pass so that the adapters act at their sites. */
export function applyAdapters(
  outputs: LmOutputs,
  adapters: readonly Adapter[],
  training: boolean,
): LmOutputs {
  const saved = new Map(
    adapters.flatMap((adapter) =>
      adapter.saved.map((entry) => [`${entry.path}/${entry.leaf}`, entry.parameter.value] as const),
    ),
  );
  const visit: Visit = (node, inputs, rebuild) => {
    const swapped = withSaved(node, inputs, saved);
    const results = swapped ? sameOperator(node, swapped) : rebuild();
    const site = siteOf(node);
    const first = results[0];
    if (!site || !first) return results;
    const y = withScope(site.path, () => adaptSite(first, site, swapped ?? inputs, adapters, training));
    return y === first ? results : [y, ...results.slice(1)];
  };
  return rewriteOutputs(outputs, { visit });
}

/** All adapters of one site, one on top of the other. */
function adaptSite(
  y0: Value,
  site: Site,
  inputs: readonly (Value | undefined)[],
  adapters: readonly Adapter[],
  training: boolean,
): Value {
  const isEmbedding = site.kind === "embedding";
  const [x, weightInput] = (isEmbedding ? [inputs[1], inputs[0]] : [inputs[0], inputs[1]]) as [Value, Value];
  let y = y0;
  let weight = () =>
    site.orientation === "in-out" || isEmbedding ? ops.transpose(weightInput, [1, 0]) : weightInput;
  for (const adapter of adapters) {
    const own = adapter.sites.get(site.path);
    if (own) {
      const below = weight;
      y = forwardFlat(y, x, own, adapter, below, inputs[2], training);
      weight = () => effectiveWeight(below(), own, adapter);
    }
    for (const rows of adapter.tokens) {
      if (rows.weightName !== site.weightName) continue;
      y = isEmbedding ? embedTokens(y, x, rows) : scoreTokens(y, x, rows);
    }
  }
  return y;
}

/** Calls the method with activations as matrices, and gives the result the map's own shape. */
function forwardFlat(
  y: Value,
  x: Value,
  own: AdapterSite,
  adapter: Adapter,
  weight: () => Value,
  bias: Value | undefined,
  training: boolean,
): Value {
  const { method, config } = adapter.adaptation;
  const matrix = (value: Value) =>
    value.shape.length === 2 ? value : ops.reshape(value, [-1, value.shape.at(-1) ?? 1]);
  const call: SiteCall = {
    site: own.shape,
    tensors: valuesOf(own),
    x: own.shape.kind === "embedding" ? x : matrix(x),
    y: matrix(y),
    weight,
    bias,
    gate: adapter.gate.value,
    dropped: (value, probability) =>
      training ? dropout(value, probability, `${adapter.name}/${own.shape.path}`) : value,
  };
  return ops.reshape(method.forward(call, config), y.shape, [y]);
}
