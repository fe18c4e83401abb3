import { type Graph, makeNode, type Node, nodesOf, rewrite, type Value } from "../../graph/index.js";
import { isNorm, isNormalised, isRecurrent, operandsOf } from "../operands.js";
import { siteOf } from "../sites.js";
import { isForm, storedOf } from "../stored.js";

/** A node that is a module, or the main part of one. */
interface Module {
  readonly node: Node;
  /** The last part of a path that has to be made up. */
  readonly kind: string;
  /** What makes two modules the same one, called twice: the tensor they read. */
  readonly stored: Value | undefined;
}

/**
 * The graph with a module path on every node that holds weights: the exporter's where it says one, else the name of the node
 * or of its weight, else a number by order of execution and the kind (`features.3.conv`). Different weights have
 * different paths; a module that is called twice has one.
 */
export function nameModules(graph: Graph): Graph {
  const modules = nodesOf(graph).flatMap((node) => moduleOf(node) ?? []);
  const paths = withShifts(graph, pathsOf(modules));
  return rewrite(graph, {
    visitInner: false,
    visit(node, inputs) {
      const path = paths.get(node);
      return path === undefined || path === node.scope ? undefined : placed(node, inputs, path);
    },
  });
}

/** The sum that ends a written-out norm belongs to the norm. */
function withShifts(graph: Graph, paths: ReadonlyMap<Node, string>): Map<Node, string> {
  const all = new Map(paths);
  for (const node of nodesOf(graph)) {
    if (node.op !== "Add" || !operandsOf(node).some(({ leaf }) => leaf === "bias")) continue;
    const scaled = node.inputs.find(
      (value) => value?.source.kind === "node" && value.source.node.op === "Mul",
    );
    const path = scaled?.source.kind === "node" ? paths.get(scaled.source.node) : undefined;
    if (path !== undefined) all.set(node, path);
  }
  return all;
}

/** The same node elsewhere. */
export const placed = (node: Node, inputs: readonly (Value | undefined)[], scope: string): readonly Value[] =>
  makeNode(node.op, inputs, node.attrs, {
    domain: node.domain,
    outputs: node.outputs.length,
    name: node.name,
    scope,
    outputNames: node.outputs.map((value) => value.name),
    fallback: node.outputs,
  }).outputs;

function moduleOf(node: Node): Module | undefined {
  if (isForm(node)) return undefined;
  const site = siteOf(node);
  if (site) return { node, kind: site.kind, stored: storedOf(site.stored?.codes ?? site.weight) };
  const operands = operandsOf(node);
  const [first] = operands;
  if (!first) return undefined;
  if (node.op === "ConvTranspose") return { node, kind: "conv", stored: first.stored };
  if (isRecurrent(node)) return { node, kind: "recurrent", stored: first.stored };
  const writtenOut = node.op === "Mul" && node.outputs[0] && isNormalised(node.outputs[0]);
  return isNorm(node) || writtenOut ? { node, kind: "norm", stored: first.stored } : undefined;
}

function pathsOf(modules: readonly Module[]): Map<Node, string> {
  const wanted = new Map(modules.map((module) => [module, pathOf(module)] as const));
  const groups = new Map<string, Module[]>();
  for (const [module, path] of wanted) groups.set(path, [...(groups.get(path) ?? []), module]);
  const paths = new Map<Node, string>();
  const taken = new Set(groups.keys());
  for (const [path, group] of groups) {
    const distinct = [...new Set(group.map(({ stored }) => stored))];
    if (path !== "" && distinct.length === 1) {
      for (const { node } of group) paths.set(node, path);
      continue;
    }
    const named = parameterPaths(group, taken);
    for (const { node, kind, stored } of group) {
      const structural = `${path || "features"}.${distinct.indexOf(stored)}.${kind}`;
      paths.set(node, named?.get(stored) ?? structural);
    }
  }
  return paths;
}

/** Paths from the names of weights, when those tell all of a group apart. */
function parameterPaths(
  group: readonly Module[],
  taken: ReadonlySet<string>,
): Map<Value | undefined, string> | undefined {
  const found = new Map<Value | undefined, string>();
  for (const { stored } of group) {
    const path = parameterPath(stored?.name);
    if (path === undefined) return undefined;
    found.set(stored, path);
  }
  const names = [...found.values()];
  const fresh = new Set(names).size === names.length && names.every((name) => !taken.has(name));
  return fresh ? found : undefined;
}

/** `Conv_12`, `GptAttention_0_matmul`: numbers of nodes, not names of modules. */
const NUMBERED = /^[A-Z]\w*_\d+(_\w+)?$|^\d+$/;

function pathOf({ node, stored }: Module): string {
  const parameter = parameterPath(stored?.name);
  if (node.scope !== "") return node.scope;
  if (parameter?.includes(".")) return parameter;
  const name = node.name !== undefined && !NUMBERED.test(node.name) ? node.name : undefined;
  return clean(name ?? parameter ?? "");
}

const PARAMETER_END =
  /^(.*[^._/])[._/](weight|bias|kernel|gamma|beta|scale|embeddings?|[wWbB])(_?\d+)?(:\d+)?(\/ReadVariableOp.*)?(_quantized)?$/;

/** The module in the name of its weight: `fire2/squeeze1x1_w_0` is of `fire2.squeeze1x1`. */
function parameterPath(name: string | undefined): string | undefined {
  const module = name && PARAMETER_END.exec(name)?.[1];
  return module && !module.includes("::") ? clean(module) : undefined;
}

const clean = (name: string): string =>
  name
    .replace(/[/]+/g, ".")
    .replace(/[^\w.-]+/g, "_")
    .replace(/^\.+|\.+$/g, "");
