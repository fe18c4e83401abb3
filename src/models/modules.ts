import { type Node, reach, type Value } from "../graph/index.js";
import { isOfNorm, isRecurrent, type Operand, operandsOf } from "./operands.js";
import { resultsOf } from "./rewrite.js";
import { type Site, sitesOf } from "./sites.js";
import { isForm, storedOf } from "./stored.js";
import type { Outputs } from "./types.js";

export type ModuleKind =
  | "linear"
  | "conv"
  | "embedding"
  | "norm"
  | "recurrent"
  | "tensor"
  | "attention"
  | "mlp"
  | "block"
  | "head"
  | "module";

/** A part of a model: what holds tensors, and what holds such parts. */
export interface Module {
  /** Empty for the model itself. */
  readonly path: string;
  readonly kind: ModuleKind;
  /** Numbers in it and below; a tensor that several modules read counts where it is read first. */
  readonly parameters: number;
  /** Shapes of its own tensors as it reads them: `weight`, `bias`, `running_mean`. */
  readonly shapes: Readonly<Record<string, readonly number[]>>;
  /** Of a linear map, a convolution or an embedding that adapters can be put on. */
  readonly map?: Pick<Site, "kind" | "inFeatures" | "outFeatures" | "orientation" | "weightName" | "isHead">;
  /** Type of the codes of a quantised weight. */
  readonly codes?: string;
  /** The module that reads the same weight before it. */
  readonly tiedTo?: string;
  /** Rows of a fused projection that make queries, keys and values: from, to. */
  readonly slices?: Readonly<Record<string, readonly [number, number]>>;
  /** Sums in it that join a branch with what went past it. */
  readonly residuals: number;
  readonly children: readonly Module[];
}

type Leaf = Pick<Module, "kind" | "map" | "codes" | "tiedTo" | "slices"> & {
  shapes: Record<string, readonly number[]>;
  parameters: number;
};

/**
 * The modules of a forward pass as a tree over their paths, in execution order. Containers are told by what is in them:
 * a softmax of scores makes an attention, a numbered part a block, two or three linear maps in a row an MLP.
 *
 * @example
 * ```ts
 * import { loadModel, modulesOf, probeOutputs } from "tunesmith/models";
 * const model = await loadModel("model.onnx", { task: "auto" });
 * for (const { path, kind, parameters } of modulesOf(probeOutputs(model)).children) console.log(path, kind, parameters);
 * ```
 */
export function modulesOf(outputs: Outputs): Module {
  const { nodes } = reach(Object.values(resultsOf(outputs)));
  const leaves = leavesOf(nodes, sitesOf(outputs));
  const attentions = new Set(nodes.filter(isAttention).map(({ scope }) => scope));
  const residuals = new Map<string, number>();
  for (const { scope } of joinsOf(nodes)) residuals.set(scope, (residuals.get(scope) ?? 0) + 1);
  return branch("", "", [...leaves.keys()], { leaves, attentions, residuals });
}

const ATTENTION = /^(Softmax|Attention|MultiHeadAttention|GroupQueryAttention)$/;

/** A softmax of scores `[batch, heads, from, to]`, or an operator that has one. */
const isAttention = ({ op, outputs }: Node): boolean =>
  ATTENTION.test(op) && (op !== "Softmax" || (outputs[0]?.shape.length ?? 0) >= 3);

/** Sums of a value with what was computed of it. */
function joinsOf(nodes: readonly Node[]): Node[] {
  const readers = new Map<Value, number>();
  for (const node of nodes)
    for (const value of new Set(node.inputs)) if (value) readers.set(value, (readers.get(value) ?? 0) + 1);
  return nodes.filter(({ op, domain, inputs: [a, b] }) => {
    if (op !== "Add" || domain !== "" || !a || !b) return false;
    if (a.shape.length < 2 || a.shape.join() !== b.shape.join()) return false;
    const passes = (past: Value, branch: Value) =>
      past.source.kind === "node" &&
      (readers.get(past) ?? 0) > 1 &&
      reach([branch], new Set([past])).values.includes(past);
    return passes(a, b) || passes(b, a);
  });
}

function leavesOf(nodes: readonly Node[], sites: readonly Site[]): Map<string, Leaf> {
  const leaves = new Map<string, Leaf>();
  const bySite = new Map(sites.map((site) => [site.node, site] as const));
  const seen = new Map<Value, string>();
  for (const node of nodes) {
    if (isForm(node)) continue;
    const site = bySite.get(node);
    if (site) addSite(leaves, site, seen);
    else for (const operand of operandsOf(node)) addOperand(leaves, node, operand, seen);
  }
  return leaves;
}

function addSite(leaves: Map<string, Leaf>, site: Site, seen: Map<Value, string>): void {
  const { path, kind, weight, bias, stored } = site;
  if (leaves.get(path)?.map) return;
  const key = stored?.codes ?? storedOf(weight) ?? weight;
  const first = seen.get(key);
  const leaf: Leaf = {
    kind: site.isHead ? "head" : kind,
    map: pick(site),
    ...(stored ? { codes: stored.codes.dtype } : {}),
    ...(first !== undefined && first !== path ? { tiedTo: first } : {}),
    ...slicesOf(site),
    shapes: { weight: weight.shape as number[] },
    parameters: first === undefined ? size(weight) : 0,
  };
  seen.set(key, first ?? path);
  const known = leaves.get(path);
  const merged = known ? { ...known, ...leaf, shapes: { ...leaf.shapes, ...known.shapes } } : leaf;
  merged.parameters += known?.parameters ?? 0;
  leaves.set(path, merged);
  if (bias) {
    merged.shapes.bias = bias.shape as number[];
    merged.parameters += count(bias, path, seen);
  }
}

const pick = ({ kind, inFeatures, outFeatures, orientation, weightName, isHead }: Site) => ({
  kind,
  inFeatures,
  outFeatures,
  orientation,
  weightName,
  isHead,
});

const size = ({ shape }: Value): number => (shape as number[]).reduce((a, b) => a * b, 1);

function count(value: Value, path: string, seen: Map<Value, string>): number {
  const key = storedOf(value) ?? value;
  if (seen.has(key)) return 0;
  seen.set(key, path);
  return size(value);
}

function addOperand(
  leaves: Map<string, Leaf>,
  node: Node,
  { leaf, value, stored }: Operand,
  seen: Map<Value, string>,
): void {
  // Numbers that an operator is set up with are no tensors of the model.
  if (size(value) <= 1) return;
  const path = node.scope || String(stored.name).replace(/[^\w.-]+/g, "_");
  const entry = leaves.get(path) ?? { kind: kindOf(node, leaf), shapes: {}, parameters: 0 };
  leaves.set(path, entry);
  entry.shapes[leaf] = value.shape as number[];
  entry.parameters += count(value, path, seen);
}

function kindOf(node: Node, leaf: string): ModuleKind {
  if (node.op === "ConvTranspose") return "conv";
  if (isRecurrent(node)) return "recurrent";
  return isOfNorm(node, leaf) ? "norm" : "tensor";
}

const FUSED = /(^|\.)(c_attn|qkv|Wqkv|query_key_value|qkv_proj|in_proj|to_qkv)$/;

function slicesOf({ path, kind, inFeatures, outFeatures }: Site): Pick<Module, "slices"> {
  if (kind !== "linear" || !FUSED.test(path) || outFeatures !== 3 * inFeatures) return {};
  const slice = (at: number): [number, number] => [at * inFeatures, (at + 1) * inFeatures];
  return { slices: { query: slice(0), key: slice(1), value: slice(2) } };
}

interface Known {
  readonly leaves: ReadonlyMap<string, Leaf>;
  readonly attentions: ReadonlySet<string>;
  readonly residuals: ReadonlyMap<string, number>;
}

/** The module at `path`, of the leaves that lie in it. */
function branch(path: string, name: string, below: readonly string[], known: Known): Module {
  const groups = new Map<string, string[]>();
  const depth = path === "" ? 0 : path.split(".").length;
  for (const leaf of below) {
    if (leaf === path) continue;
    const next = leaf.split(".")[depth] as string;
    groups.set(next, [...(groups.get(next) ?? []), leaf]);
  }
  const children = [...groups].map(([next, inside]) =>
    branch(path === "" ? next : `${path}.${next}`, next, inside, known),
  );
  const own = known.leaves.get(path);
  const { shapes = {}, parameters = 0, ...rest } = own ?? {};
  return {
    ...rest,
    path,
    kind: own?.kind ?? containerKind(path, name, children, known),
    shapes,
    parameters: children.reduce((sum, child) => sum + child.parameters, parameters),
    residuals: known.residuals.get(path) ?? 0,
    children,
  };
}

function containerKind(
  path: string,
  name: string,
  children: readonly Module[],
  { attentions }: Known,
): ModuleKind {
  const kinds = children.map(({ kind }) => kind);
  const [only] = kinds;
  if (kinds.length === 1 && only === "head") return "head";
  if (attentions.has(path) && kinds.length > 1) return "attention";
  if (/^\d+$/.test(name) && kinds.length > 1) return "block";
  if (/attn|attention/i.test(name)) return "attention";
  const isMlp = kinds.length >= 2 && kinds.length <= 3 && kinds.every((kind) => kind === "linear");
  return isMlp && path !== "" ? "mlp" : "module";
}
