import { TunesmithError } from "../errors/index.js";
import { makeNode, type Node, reach, type Value } from "../graph/index.js";
import {
  frozenTensor,
  isForm,
  nearest,
  type Outputs,
  operandsOf,
  type Parameter,
  resultsOf,
} from "../models/index.js";
import { toFloat32 } from "../tensor/index.js";
import { parameter } from "./adapter.js";
import type { SiteConfig } from "./method.js";

/** A base tensor that is trained whole: its module's nodes read the parameter instead. */
export interface SavedTensor {
  /** Module path; other modules that share the weight (a tied head) keep the base's. */
  readonly path: string;
  /** Name of the base tensor. */
  readonly weightName: string;
  /** Last part of its name: `weight`, `bias`. */
  readonly leaf: string;
  readonly parameter: Parameter;
}

/** A base tensor where a module reads it. */
export interface TensorUse {
  readonly path: string;
  /** As the module reads it. */
  readonly weight: Value;
  readonly leaf: string;
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
      uses.set(`${node.scope}/${leaf}`, { path: node.scope, weight: value, leaf, name: String(stored.name) });
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

/** The tensors `modulesToSave` and `bias` ask for. Throws `target-not-found` for a module that does not exist. */
export async function savedTensors(
  outputs: Outputs,
  adapter: string,
  config: SiteConfig,
  adapted: ReadonlySet<string>,
): Promise<SavedTensor[]> {
  const uses = tensorUses(outputs);
  const modules = config.modulesToSave ?? [];
  for (const name of modules) {
    if (uses.some(({ path }) => isNamed(path, name))) continue;
    const endings = new Set(uses.map(({ path }) => leafOf(path)));
    throw new TunesmithError("target-not-found", `module to save '${name}' does not exist`, {
      fix: `near names: ${nearest(name, endings, 5).join(", ")}`,
    });
  }
  const wanted = uses.filter(
    ({ path, leaf }) =>
      modules.some((name) => isNamed(path, name)) ||
      (leaf === "bias" && (config.bias === "all" || (config.bias === "adapted" && adapted.has(path)))),
  );
  return Promise.all(wanted.map((use) => savedTensor(adapter, use)));
}

async function savedTensor(
  adapter: string,
  { path, weight, leaf, name: weightName }: TensorUse,
): Promise<SavedTensor> {
  const data = toFloat32(await frozenTensor(weight)).slice();
  const name = `${adapter}/${path}.${leaf}`;
  return {
    path,
    weightName,
    leaf,
    parameter: parameter(name, weight.shape as number[], data, true),
  };
}

/** A node's inputs with saved tensors in the place of the base's; undefined when nothing changes. */
export function withSaved(
  node: Node,
  inputs: readonly (Value | undefined)[],
  saved: ReadonlyMap<string, Value>,
): (Value | undefined)[] | undefined {
  if (saved.size === 0 || isForm(node)) return undefined;
  const replaced = operandsOf(node).flatMap(({ index, leaf }) => {
    const replacement = saved.get(`${node.scope}/${leaf}`);
    return replacement ? [[index, replacement] as const] : [];
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
