import { TunesmithError } from "../errors/index.js";
import { ops, type Value, type Visit, withScope } from "../graph/index.js";
import {
  type AnyModel,
  type CausalLm,
  dropout,
  type Inputs,
  type Model,
  noise,
  type Outputs,
  type Parameter,
  rewriteOutputs,
  rowMask,
  type Site,
  siteOf,
} from "../models/index.js";
import { rewrittenInputs } from "./activations.js";
import type { Adapter, AdapterSite } from "./adapter.js";
import { effectiveBias, effectiveWeight, valuesOf } from "./effective.js";
import { plainFields } from "./fields.js";
import { combinedHooks, hooksOf } from "./hooks.js";
import { lastHidden } from "./last-hidden.js";
import type { SiteCall } from "./method.js";
import { type PassText, passTextOf } from "./pass-text.js";
import { sameOperator, savedValues, withSaved } from "./saved.js";
import { asMatrix, type SiteMap, siteMap } from "./site-map.js";
import { embedTokens, scoreTokens } from "./tokens.js";

/** A model with adapters on it: a model like its base, with parameters. */
export type Adapted<M extends Model = Model> = M & {
  readonly base: M;
  readonly adapters: ReadonlyMap<string, Adapter>;
  /** Names of the adapters in use, applied in this order. */
  readonly active: readonly string[];
};
export type AdaptedLm = Adapted<CausalLm>;

/** Whether a model carries adapters, active or not. */
export const isAdapted = <M extends Model>(model: M): model is Adapted<M> => "adapters" in model;

/** The model with other adapters switched on; their tensors are shared with `model`, not copied. */
export function adaptedModel<M extends Model>(
  base: M,
  adapters: ReadonlyMap<string, Adapter>,
  active: readonly string[],
): Adapted<M> {
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
  const below: AnyModel = base;
  return {
    ...plainFields(base),
    base,
    adapters,
    active,
    parameters,
    build: (inputs: Inputs) => applyAll(below.build(inputs), used, inputs),
    trainingHooks: () => combinedHooks([below.trainingHooks?.() ?? {}, ...used.map(hooksOf)]),
  } as unknown as Adapted<M>;
}

/** Rewrites a forward pass so that the adapters act at their sites, after a first pass where some need one. */
function applyAll<O extends Outputs>(outputs: O, adapters: readonly Adapter[], inputs: Inputs): O {
  const asking = adapters.filter(({ adaptation }) => adaptation.method.twoPasses);
  const [one] = asking;
  if (!one) return applyAdapters(outputs, adapters, inputs);
  const first = applyAdapters(outputs, asking, { ...inputs, training: false });
  const hidden = ops.stopGradient(lastHidden(first, one.adaptation.method.name));
  const second = applyAdapters(outputs, adapters, inputs, hidden);
  return "present" in second ? { ...second, present: [] } : second;
}

/** An adapter in one forward pass: what its sites hand on, add to the loss, and count. */
interface Pass {
  readonly adapter: Adapter;
  readonly training: boolean;
  readonly mask: Value | undefined;
  textAt(site: Site): PassText | undefined;
  readonly memory: Map<string, Value>;
  readonly losses: Value[];
  readonly tallies: Map<string, Value>;
  readonly hidden: Value | undefined;
}

/** One pass with the adapters at their sites; `hidden` is what a pass before it gave. */
function applyAdapters<O extends Outputs>(
  outputs: O,
  adapters: readonly Adapter[],
  inputs: Inputs,
  hidden?: Value,
): O {
  const saved = savedValues(adapters);
  const training = inputs.training === true;
  const textAt = passTextOf(outputs, inputs);
  const common = { training, mask: rowMask(inputs), textAt, tallies: new Map<string, Value>(), hidden };
  const passes = adapters.map((adapter): Pass => ({ adapter, memory: new Map(), losses: [], ...common }));
  const activations = rewrittenInputs();
  const visit: Visit = (node, operands, rebuild) => {
    activations.see(node, operands);
    const swapped = withSaved(node, operands, saved);
    const results = swapped ? sameOperator(node, swapped) : rebuild();
    const site = siteOf(node);
    const first = results[0];
    if (!site || !first) return results;
    const x = activations.of(site);
    const y = withScope(site.path, () => adaptSite(first, x, site, swapped ?? operands, passes));
    return y === first ? results : [y, ...results.slice(1)];
  };
  const adapted = withTallies(rewriteOutputs(outputs, { visit }), common.tallies);
  return training ? withPenalty(adapted, passes) : adapted;
}

/** The pass with what its adapters count, beside what those below them do. */
const withTallies = <O extends Outputs>(outputs: O, tallies: ReadonlyMap<string, Value>): O =>
  tallies.size === 0
    ? outputs
    : { ...outputs, tallies: { ...outputs.tallies, ...Object.fromEntries(tallies) } };

/** The pass with the loss terms of its adapters. */
function withPenalty<O extends Outputs>(outputs: O, passes: readonly Pass[]): O {
  const terms = passes.flatMap(({ adapter, losses }) => {
    const { method, config } = adapter.adaptation;
    const sites = [...adapter.sites.values()].map((own) => ({
      site: own.shape,
      tensors: valuesOf(own, adapter),
    }));
    const term = method.penalty?.(sites, config);
    return term ? [...losses, term] : losses;
  });
  if (terms.length === 0) return outputs;
  const all = outputs.penalty ? [outputs.penalty, ...terms] : terms;
  return { ...outputs, penalty: all.reduce((a, b) => ops.add(a, b)) };
}

/** All adapters of one site, one on top of the other. */
function adaptSite(
  y0: Value,
  x: Value,
  site: Site,
  inputs: readonly (Value | undefined)[],
  passes: readonly Pass[],
): Value {
  const isEmbedding = site.kind === "embedding";
  const at = (operand: Value | undefined) => operand && inputs[site.node.inputs.indexOf(operand)];
  let y = y0;
  let bias = at(site.bias);
  let weight = () => asMatrix(site, at(site.weight) ?? site.weight);
  for (const pass of passes) {
    const { adapter } = pass;
    const own = adapter.sites.get(site.path);
    if (own) {
      const below = { weight, map: siteMap(site, bias) };
      bias = effectiveBias(bias, below.weight, own, adapter);
      y = adaptOnce(y, x, { site, own }, pass, below, bias);
      weight = () => effectiveWeight(below.weight(), own, adapter);
    }
    for (const rows of adapter.tokens) {
      if (rows.weightName !== site.weightName) continue;
      y = isEmbedding ? embedTokens(y, x, rows) : scoreTokens(y, x, rows);
    }
  }
  return y;
}

/** Calls the method with activations in the form it knows, and gives the result the map's own shape. */
function adaptOnce(
  y: Value,
  x: Value,
  { site, own }: { readonly site: Site; readonly own: AdapterSite },
  { adapter, memory, losses, tallies, training, mask, textAt, hidden }: Pass,
  { weight, map }: { readonly weight: () => Value; readonly map: SiteMap },
  bias: Value | undefined,
): Value {
  const { method, config } = adapter.adaptation;
  const key = `${adapter.name}/${own.shape.path}`;
  const rows = map.flat(x);
  const call: SiteCall = {
    site: own.shape,
    sites: adapter.sites.size,
    tensors: valuesOf(own, adapter),
    x: rows,
    y: map.flatOut(y),
    ...map,
    weight,
    gate: adapter.gate.value,
    training,
    pass: memory,
    hidden: adapter.adaptation.method.twoPasses ? hidden : undefined,
    dropped: (value, probability) => (training ? dropout(value, probability, key) : value),
    noise: (like, kind, part) => noise(like, kind, part === undefined ? key : `${key}/${part}`),
    addLoss: (term) => losses.push(term),
    // A site may see something else than tokens: pooled rows, patches.
    mask: rows.shape[0] === mask?.shape[0] ? mask : undefined,
    text: () => textAt(site),
    tally: (name, sums) => tallies.set(`${key}/${name}`, sums),
  };
  const direct = (own.shape.conv?.groups ?? 1) === 1 ? method.forward : undefined;
  return ops.reshape(direct?.(call, config) ?? throughWeight(call, own, adapter, bias), y.shape, [y]);
}

/** The map with the changed weight and bias: for methods that have no cheaper way. */
function throughWeight(call: SiteCall, own: AdapterSite, adapter: Adapter, bias: Value | undefined): Value {
  const product = call.apply(call.x, effectiveWeight(call.weight(), own, adapter));
  return bias ? ops.add(product, call.perFeature(bias)) : product;
}
