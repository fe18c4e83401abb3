import { type Attrs, type Node, reach, type Value } from "../graph/index.js";
import { isVector } from "./operands.js";
import { namesOf } from "./path-rules.js";
import { quantisedMap } from "./quantised-maps.js";
import { mainResult, resultsOf } from "./rewrite.js";
import { storedOf } from "./stored.js";
import type { Outputs } from "./types.js";

/** How a linear map's weight lies in memory; a convolution's is `out-in` with its taps flattened. */
export type Orientation = "out-in" | "in-out";

/** How a convolution slides. */
export interface ConvShape {
  /** Size per spatial axis. */
  readonly kernel: readonly number[];
  readonly groups: number;
}

/** A weight that is kept as integer codes. */
export interface QuantisedWeight {
  /**
   * `float-product`: the weight is made floats and multiplied as such (DequantizeLinear, MatMulNBits, MatMulBnb4), so a float
   * weight can stand in its place; `integer-product`: the activations are quantised too, row by row while it runs.
   */
  readonly form: "float-product" | "integer-product";
  /** The node that reads the codes. */
  readonly node: Node;
  readonly codes: Value;
}

/** A place where a weight acts on activations: what adapters are attached to. */
export interface Site {
  /** Module path as the model's community writes it, `model.layers.0.self_attn.q_proj`. */
  readonly path: string;
  readonly kind: "linear" | "embedding" | "conv";
  /** The node whose first output is the map's result. */
  readonly node: Node;
  /** What the map reads: activations, or row numbers. */
  readonly input: Value;
  /** The weight as floats: a constant, or a fixed function of constants; tied weights appear at several sites. */
  readonly weight: Value;
  /** Name in files of the tensor that is stored. */
  readonly weightName: string;
  /** Of a weight that is kept as codes. */
  readonly stored?: QuantisedWeight;
  readonly bias: Value | undefined;
  readonly orientation: Orientation;
  /** Input features, rows of an embedding, or channels per group times taps of a convolution. */
  readonly inFeatures: number;
  /** Output features or channels, or the width of an embedding. */
  readonly outFeatures: number;
  readonly conv?: ConvShape;
  /** Strides, padding and dilation of a convolution, as its operator has them. */
  readonly attrs: Attrs;
  /** Whether this is the output head: the product that makes the logits. */
  readonly isHead: boolean;
}

type Found = Omit<Site, "isHead" | "path">;

const known = new WeakMap<Node, { readonly found: Found | undefined }>();

/** The site a node is, if it is one: a product or convolution with, or a row lookup in, a weight that is stored. */
export function siteOf(node: Node, head?: Value): Site | undefined {
  let entry = known.get(node);
  if (!entry) {
    entry = { found: find(node) };
    known.set(node, entry);
  }
  const { found } = entry;
  return found && { ...found, path: node.scope, isHead: head !== undefined && node.outputs[0] === head };
}

function find(node: Node): Found | undefined {
  const quantised = quantisedMap(node);
  if (quantised) return quantised;
  if (node.domain !== "") return undefined;
  const isLookup = node.op === "Gather";
  const weight = node.inputs[isLookup ? 0 : 1];
  const input = node.inputs[isLookup ? 1 : 0];
  const stored = weight && storedOf(weight);
  if (!input || stored?.name === undefined || !/^b?float/.test(weight?.dtype ?? "")) return undefined;
  const { shape } = weight as { shape: readonly number[] };
  const codes = codesOf(weight as Value);
  const common = {
    node,
    input,
    weight: weight as Value,
    weightName: stored.name,
    ...(codes ? { stored: codes } : {}),
    attrs: node.attrs,
  };
  if (node.op === "Conv") return { ...common, ...convolution(node, shape) };
  if (shape.length !== 2) return undefined;
  const [rows, columns] = shape as [number, number];
  if (isLookup) {
    if (intAttr(node, "axis", 0) !== 0) return undefined;
    const embedding = { kind: "embedding", bias: undefined, orientation: "out-in" } as const;
    return { ...common, ...embedding, inFeatures: rows, outFeatures: columns };
  }
  if (node.op !== "Gemm" && node.op !== "MatMul") return undefined;
  const transposed = node.op === "Gemm" && intAttr(node, "transB", 0) !== 0;
  return {
    ...common,
    kind: "linear",
    bias: node.op === "Gemm" ? biasAt(node) : undefined,
    orientation: transposed ? "out-in" : "in-out",
    inFeatures: transposed ? columns : rows,
    outFeatures: transposed ? rows : columns,
  };
}

/** The codes below a weight, when that is where its numbers come from. */
function codesOf(weight: Value): QuantisedWeight | undefined {
  let { source } = weight;
  while (source.kind === "node") {
    const { node }: { node: Node } = source;
    const below: Value | undefined = node.inputs[0];
    if (!below) return undefined;
    if (node.op === "DequantizeLinear") return { form: "float-product", node, codes: below };
    source = below.source;
  }
  return undefined;
}

const biasAt = (node: Node): Value | undefined => {
  const bias = node.inputs[2];
  return bias && storedOf(bias) && (isVector(bias) || bias.shape.length === 1) ? bias : undefined;
};

function intAttr(node: Node, name: string, fallback: number): number {
  const attr = node.attrs[name];
  return attr && "i" in attr ? Number(attr.i) : fallback;
}

function convolution(node: Node, shape: readonly number[]) {
  const [channels, ...rest] = shape as [number, ...number[]];
  return {
    kind: "conv",
    bias: biasAt(node),
    orientation: "out-in",
    inFeatures: rest.reduce((a, b) => a * b, 1),
    outFeatures: channels,
    conv: { kernel: rest.slice(1), groups: intAttr(node, "group", 1) },
  } as const;
}

/** Every site of a forward pass, in execution order. */
export function sitesOf(outputs: Outputs): Site[] {
  const { nodes } = reach(Object.values(resultsOf(outputs)));
  const head = headProduct(outputs);
  return nodes.flatMap((node) => siteOf(node, head) ?? []);
}

/** The product that makes the logits, below a soft cap or a reshape if there is one; undefined without logits. */
function headProduct(outputs: Outputs): Value | undefined {
  if (!resultsOf(outputs).logits) return undefined;
  let value = mainResult(outputs);
  while (value.source.kind === "node" && !isProduct(value.source.node)) {
    const below = value.source.node.inputs[0];
    if (!below) break;
    value = below;
  }
  return value;
}

const isProduct = (node: Node): boolean =>
  ["Gemm", "MatMul", "Conv"].includes(node.op) || siteOf(node) !== undefined;

/** Names of every linear map but the head; of convolutions where there are no linear maps. `all` are the modules they are told from. */
export function broadTargets(sites: readonly Site[], all: readonly Site[] = sites): string[] {
  const linear = sites.filter(({ kind, isHead }) => kind === "linear" && !isHead);
  const chosen = linear.length > 0 ? linear : sites.filter(({ kind, isHead }) => kind === "conv" && !isHead);
  return namesOf(
    chosen.map(({ path }) => path),
    all.map(({ path }) => path),
  );
}
