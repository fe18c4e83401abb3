import { TunesmithError } from "../errors/index.js";
import { makeNode, type Node, ops, reach, type Value } from "../graph/index.js";
import {
  frozenTensor,
  isForm,
  isOfNorm,
  nearest,
  type Outputs,
  operandsOf,
  type Parameter,
  resultsOf,
  sitesOf,
} from "../models/index.js";
import { toFloat32 } from "../tensor/index.js";
import { type Adapter, parameter } from "./adapter.js";
import type { Adaptation, BaseTensor, SiteConfig } from "./method.js";
import { type Candidate, selectTargets } from "./targets.js";

/** A base tensor that is trained whole: its module's nodes read the parameter instead. */
export interface SavedTensor {
  /** Module path; other modules that share the weight (a tied head) keep the base's. */
  readonly path: string;
  /** Name of the base tensor. */
  readonly weightName: string;
  /** Last part of its name: `weight`, `bias`. */
  readonly leaf: string;
  readonly parameter: Parameter;
  /** The method is about it (`Method.whole`): its change is scaled, and adds to that of adapters below. */
  readonly isOwn: boolean;
}

/** A base tensor where a module reads it. */
export interface TensorUse extends BaseTensor {
  /** As the module reads it. */
  readonly weight: Value;
  /** Name of the stored tensor. */
  readonly name: string;
}

const leafOf = (name: string) => name.slice(name.lastIndexOf(".") + 1);

/** Every (module, float32 tensor) pair of a forward pass, in execution order. */
export function tensorUses(outputs: Outputs): TensorUse[] {
  const uses = new Map<string, TensorUse>();
  for (const node of reach(Object.values(resultsOf(outputs))).nodes) {
    if (isForm(node)) continue;
    for (const { leaf, value, stored } of operandsOf(node))
      uses.set(`${node.scope}/${leaf}`, {
        path: node.scope,
        weight: value,
        leaf,
        name: String(stored.name),
        isNorm: isOfNorm(node, leaf),
      });
  }
  return [...uses.values()];
}

/** Whether a module is the one of that name, or inside it (`classifier.dense` is in `classifier`). */
const isNamed = (path: string, name: string) => `.${path}.`.includes(`.${name}.`);

/** Those of the names that the model has a module of. */
export const modulesIn = (outputs: Outputs, names: readonly string[]): string[] => {
  const uses = tensorUses(outputs);
  return names.filter((name) => uses.some(({ path }) => isNamed(path, name)));
};

/** Modules that hold tensors of the kind a method is about, as targets see them. */
export function tensorModules(uses: readonly TensorUse[], outputs: Outputs): Candidate[] {
  const sites = new Map(sitesOf(outputs).map((site) => [site.path, site] as const));
  return [...new Set(uses.map(({ path }) => path))].map((path) => {
    const { kind = "tensor" as const, isHead = false } = sites.get(path) ?? {};
    return { path, kind, isHead };
  });
}

/** The base tensors that a method is about. Throws `target-not-found`, `config-invalid`. */
export function ownTensors(outputs: Outputs, { method, config }: Adaptation): TensorUse[] {
  const { whole } = method;
  if (!whole) return [];
  const maps = new Set(sitesOf(outputs).map(({ path }) => path));
  const uses = tensorUses(outputs).filter((use) =>
    whole.takes({ ...use, isNorm: use.isNorm && !maps.has(use.path) }, config),
  );
  if (uses.length === 0) {
    throw new TunesmithError("target-not-found", `${method.name}: the model has no ${whole.of} to train`, {
      fix: "choose another method, or look with 'tunesmith inspect' at what the model has",
    });
  }
  const { exclude, layers, layersPattern, modulesToSave: saved, targets = ".*" } = config;
  const candidates = tensorModules(uses, outputs);
  const chosen = selectTargets(candidates, { targets, exclude, layers, layersPattern, saved });
  const paths = new Set(chosen.map(({ path }) => path));
  return uses.filter(({ path }) => paths.has(path));
}

/**
 * The tensors that the method is about, and those that `modulesToSave` and `bias` ask for. Throws `target-not-found` for a
 * module that does not exist.
 */
export async function savedTensors(
  outputs: Outputs,
  adapter: string,
  adaptation: Adaptation,
  adapted: ReadonlySet<string>,
): Promise<SavedTensor[]> {
  const own = ownTensors(outputs, adaptation);
  const taken = new Set(own.map(({ path, leaf }) => `${path}/${leaf}`));
  const others = askedTensors(outputs, adaptation.config, adapted);
  return Promise.all([
    ...own.map((use) => savedTensor(adapter, use, true)),
    ...others
      .filter(({ path, leaf }) => !taken.has(`${path}/${leaf}`))
      .map((use) => savedTensor(adapter, use, false)),
  ]);
}

function askedTensors(outputs: Outputs, config: SiteConfig, adapted: ReadonlySet<string>): TensorUse[] {
  const uses = tensorUses(outputs);
  const modules = config.modulesToSave ?? [];
  for (const name of modules) {
    if (uses.some(({ path }) => isNamed(path, name))) continue;
    const endings = new Set(uses.map(({ path }) => leafOf(path)));
    throw new TunesmithError("target-not-found", `module to save '${name}' does not exist`, {
      fix: `near names: ${nearest(name, endings, 5).join(", ")}`,
    });
  }
  return uses.filter(
    ({ path, leaf }) =>
      modules.some((name) => isNamed(path, name)) ||
      (leaf === "bias" && (config.bias === "all" || (config.bias === "adapted" && adapted.has(path)))),
  );
}

async function savedTensor(
  adapter: string,
  { path, weight, leaf, name: weightName }: TensorUse,
  isOwn: boolean,
): Promise<SavedTensor> {
  const data = toFloat32(await frozenTensor(weight)).slice();
  const name = `${adapter}/${path}.${leaf}`;
  return {
    path,
    weightName,
    leaf,
    parameter: parameter(name, weight.shape as number[], data, true),
    isOwn,
  };
}

/** What adapters put in the place of base tensors, by `path/leaf`: a function of the base's. */
export type SavedValues = ReadonlyMap<string, (base: Value) => Value>;

/** The saved tensors of several adapters, one on top of the other. */
export function savedValues(adapters: readonly Pick<Adapter, "saved" | "gate">[]): SavedValues {
  const values = new Map<string, (base: Value) => Value>();
  for (const { saved, gate } of adapters)
    for (const { path, leaf, parameter: own, isOwn } of saved) {
      const key = `${path}/${leaf}`;
      const below = values.get(key);
      values.set(key, (base) => {
        if (!isOwn) return own.value;
        const change = ops.mul(ops.sub(own.value, base), gate.value);
        return ops.add(below?.(base) ?? base, change);
      });
    }
  return values;
}

/** A node's inputs with saved tensors in the place of the base's; undefined when nothing changes. */
export function withSaved(
  node: Node,
  inputs: readonly (Value | undefined)[],
  saved: SavedValues,
): (Value | undefined)[] | undefined {
  if (saved.size === 0 || isForm(node)) return undefined;
  const replaced = operandsOf(node).flatMap(({ index, leaf, value }) => {
    const replacement = saved.get(`${node.scope}/${leaf}`);
    return replacement ? [[index, replacement(value)] as const] : [];
  });
  if (replaced.length === 0) return undefined;
  const swapped = [...inputs];
  for (const [index, replacement] of replaced) swapped[index] = replacement;
  return swapped;
}

/** The node's operator over other inputs. */
export const sameOperator = (node: Node, inputs: readonly (Value | undefined)[]): readonly Value[] =>
  makeNode(node.op, inputs, node.attrs, {
    domain: node.domain,
    outputs: node.outputs.length,
    name: node.name,
    scope: node.scope,
  }).outputs;
