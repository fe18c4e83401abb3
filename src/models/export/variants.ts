import { type Graph, halfWeights, nodesOf, subgraphs, toFloat16 } from "../../graph/index.js";
import { quantizeModel } from "../quantize.js";
import type { Model } from "../types.js";
import type { FileGraph } from "./graph.js";

/**
 * A smaller file, called as transformers.js calls it. `fp16` computes in half precision (norms and softmax in float32);
 * `q8`, `q4` and `bnb4` (NF4) quantise linear maps to 8 and 4 bits; `q4f16` has both. All take and give float32.
 */
export type ExportVariant = "fp16" | "q8" | "q4" | "q4f16" | "bnb4";

/** What transformers.js puts after a file's name for a `dtype`. */
export const SUFFIXES: Readonly<Record<ExportVariant, string>> = {
  fp16: "_fp16",
  q8: "_quantized",
  q4: "_q4",
  q4f16: "_q4f16",
  bnb4: "_bnb4",
};

const KINDS = { q8: "int8-dynamic", q4: "int4", q4f16: "int4", bnb4: "nf4" } as const;

/** The model whose graph a variant is. Throws what `quantizeModel` throws. */
export const variantModel = async (model: Model, variant: ExportVariant): Promise<Model> =>
  variant === "fp16" ? model : quantizeModel(model, { kind: KINDS[variant] });

export const variantFile = async (file: FileGraph, variant: ExportVariant): Promise<FileGraph> =>
  variant === "fp16" || variant === "q4f16" ? { ...file, graph: await half(file.graph) } : file;

/** Computed in halves; a decoder with branches keeps its weights in halves and computes in float32. */
const half = (graph: Graph): Promise<Graph> =>
  nodesOf(graph).some((node) => subgraphs(node).length > 0) ? halfWeights(graph) : toFloat16(graph);
