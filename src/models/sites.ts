import { type Node, reach, type Value } from "../graph/index.js";
import type { LmOutputs } from "./types.js";

/** How a linear map's weight lies in memory. */
export type Orientation = "out-in" | "in-out";

/** A place where a weight acts on activations: what adapters are attached to. */
export interface Site {
  /** Module path as the model's community writes it, `model.layers.0.self_attn.q_proj`. */
  readonly path: string;
  readonly kind: "linear" | "embedding";
  readonly node: Node;
  /** The weight itself; tied weights appear at several sites. */
  readonly weight: Value;
  /** Its name in files. */
  readonly weightName: string;
  readonly bias: Value | undefined;
  readonly orientation: Orientation;
  /** Input features, or rows of an embedding. */
  readonly inFeatures: number;
  /** Output features, or the width of an embedding. */
  readonly outFeatures: number;
  /** Whether this is the output head of a language model. */
  readonly isHead: boolean;
}

const constantAt = (node: Node, index: number): Value | undefined => {
  const value = node.inputs[index];
  return value?.source.kind === "constant" ? value : undefined;
};

/** The site a node is, if it is one: a matrix product with, or a row lookup in, a constant weight. */
export function siteOf(node: Node, head?: Value): Site | undefined {
  const isGather = node.op === "Gather" && node.domain === "";
  const weight = constantAt(node, isGather ? 0 : 1);
  if (weight?.shape.length !== 2 || weight.name === undefined) return undefined;
  const [rows, columns] = weight.shape as [number, number];
  const common = {
    path: node.scope,
    node,
    weight,
    weightName: weight.name,
    isHead: head !== undefined && node.outputs[0] === head,
  };
  if (isGather) {
    const embedding = { kind: "embedding", bias: undefined, orientation: "out-in" } as const;
    return { ...common, ...embedding, inFeatures: rows, outFeatures: columns };
  }
  if (node.domain !== "" || (node.op !== "Gemm" && node.op !== "MatMul")) return undefined;
  const flag = node.attrs.transB;
  const transposed = node.op === "Gemm" && flag !== undefined && "i" in flag && Number(flag.i) !== 0;
  return {
    ...common,
    kind: "linear",
    bias: node.op === "Gemm" ? constantAt(node, 2) : undefined,
    orientation: transposed ? "out-in" : "in-out",
    inFeatures: transposed ? columns : rows,
    outFeatures: transposed ? rows : columns,
  };
}

/** Every site of a forward pass, in execution order. */
export function sitesOf(outputs: LmOutputs): Site[] {
  const { nodes } = reach([outputs.logits]);
  return nodes.flatMap((node) => siteOf(node, headProduct(outputs)) ?? []);
}

/** The product that makes the logits, below a soft cap if there is one. */
function headProduct(outputs: LmOutputs): Value {
  let value = outputs.logits;
  while (value.source.kind === "node" && !["Gemm", "MatMul"].includes(value.source.node.op)) {
    const below = value.source.node.inputs[0];
    if (!below) break;
    value = below;
  }
  return value;
}
