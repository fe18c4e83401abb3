import { type Node, reach, type Value } from "../graph/index.js";
import { mainResult, resultsOf } from "./rewrite.js";
import type { Outputs } from "./types.js";

/** How a linear map's weight lies in memory; a convolution's is `out-in` with its taps flattened. */
export type Orientation = "out-in" | "in-out";

/** How a convolution slides. */
export interface ConvShape {
  /** Size per spatial axis. */
  readonly kernel: readonly number[];
  readonly groups: number;
}

/** A place where a weight acts on activations: what adapters are attached to. */
export interface Site {
  /** Module path as the model's community writes it, `model.layers.0.self_attn.q_proj`. */
  readonly path: string;
  readonly kind: "linear" | "embedding" | "conv";
  readonly node: Node;
  /** The weight itself; tied weights appear at several sites. */
  readonly weight: Value;
  /** Its name in files. */
  readonly weightName: string;
  readonly bias: Value | undefined;
  readonly orientation: Orientation;
  /** Input features, rows of an embedding, or channels per group times taps of a convolution. */
  readonly inFeatures: number;
  /** Output features or channels, or the width of an embedding. */
  readonly outFeatures: number;
  readonly conv?: ConvShape;
  /** Whether this is the output head: the product that makes the logits. */
  readonly isHead: boolean;
}

const constantAt = (node: Node, index: number): Value | undefined => {
  const value = node.inputs[index];
  return value?.source.kind === "constant" ? value : undefined;
};

/** The site a node is, if it is one: a product or convolution with, or a row lookup in, a constant weight. */
export function siteOf(node: Node, head?: Value): Site | undefined {
  if (node.domain !== "") return undefined;
  const weight = constantAt(node, node.op === "Gather" ? 0 : 1);
  if (weight?.name === undefined) return undefined;
  const isHead = head !== undefined && node.outputs[0] === head;
  const common = { path: node.scope, node, weight, weightName: weight.name, isHead };
  const { shape } = weight as { shape: readonly number[] };
  if (node.op === "Conv") return { ...common, ...convolution(node, shape) };
  if (shape.length !== 2) return undefined;
  const [rows, columns] = shape as [number, number];
  if (node.op === "Gather") {
    const embedding = { kind: "embedding", bias: undefined, orientation: "out-in" } as const;
    return { ...common, ...embedding, inFeatures: rows, outFeatures: columns };
  }
  if (node.op !== "Gemm" && node.op !== "MatMul") return undefined;
  const transposed = node.op === "Gemm" && intAttr(node, "transB", 0) !== 0;
  return {
    ...common,
    kind: "linear",
    bias: node.op === "Gemm" ? constantAt(node, 2) : undefined,
    orientation: transposed ? "out-in" : "in-out",
    inFeatures: transposed ? columns : rows,
    outFeatures: transposed ? rows : columns,
  };
}

function intAttr(node: Node, name: string, fallback: number): number {
  const attr = node.attrs[name];
  return attr && "i" in attr ? Number(attr.i) : fallback;
}

function convolution(node: Node, shape: readonly number[]) {
  const [channels, ...rest] = shape as [number, ...number[]];
  return {
    kind: "conv",
    bias: constantAt(node, 2),
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
  while (value.source.kind === "node" && !["Gemm", "MatMul", "Conv"].includes(value.source.node.op)) {
    const below = value.source.node.inputs[0];
    if (!below) break;
    value = below;
  }
  return value;
}
