import { TunesmithError } from "../../errors/index.js";
import { isTensorRef, readTensor, toFloat32 } from "../../tensor/index.js";
import { withScope } from "../create.js";
import {
  misfitOf,
  type PendingMatrix,
  type QuantizationKind,
  type QuantizationOptions,
  quantizationOf,
  quantizedProduct,
  quantizeMatrices,
} from "../quantize/index.js";
import { rewrite } from "../rewrite.js";
import { nodesOf } from "../traverse.js";
import type { Graph, Node, Value } from "../types.js";

export interface QuantizeGraphOptions extends QuantizationOptions {
  /** Products that stay floats. Default: those whose weight another operator reads too, such as an embedding. */
  readonly exclude?: (node: Node) => boolean;
}

/**
 * The graph with its products with constant matrices (MatMul, Gemm) in fewer bits: what a file gets smaller by. Weights go to a
 * temporary file one at a time. Throws `config-invalid`, and `target-not-found` when there is no such product.
 *
 * @example
 * ```ts
 * import { loadOnnx, quantizeGraph, saveOnnx } from "tunesmith/graph";
 * const { graph } = await loadOnnx("model.onnx");
 * await saveOnnx(await quantizeGraph(graph, "int4"), "model_q4.onnx");
 * await saveOnnx(await quantizeGraph(graph, "int8-dynamic"), "model_quantized.onnx");
 * ```
 */
export async function quantizeGraph(
  graph: Graph,
  options: QuantizationKind | QuantizeGraphOptions,
): Promise<Graph> {
  const { exclude, ...wanted }: QuantizeGraphOptions =
    typeof options === "string" ? { kind: options } : options;
  const settings = quantizationOf(wanted);
  const chosen = new Map<Value, { readonly turned: boolean }>();
  const others = new Set<Value>();
  for (const node of nodesOf(graph)) {
    const product = productOf(node);
    const isChosen = product && !exclude?.(node) && !misfitOf(settings, product.rows, product.columns);
    const known = product && chosen.get(product.weight);
    if (isChosen && (!known || known.turned === product.turned))
      chosen.set(product.weight, { turned: product.turned });
    for (const value of node.inputs) if (value && !(isChosen && value === product?.weight)) others.add(value);
  }
  const weights = [...chosen].filter(([weight]) => !others.has(weight));
  if (weights.length === 0) {
    throw new TunesmithError(
      "target-not-found",
      `graph '${graph.name}' has no product that can be quantised`,
      {
        fix: "it needs MatMul or Gemm with a constant float32 matrix that nothing else reads",
      },
    );
  }
  const matrices = await quantizeMatrices(
    weights.map(([weight, { turned }]) => pendingOf(weight, turned)),
    settings,
  );
  const table = new Map(weights.map(([weight], at) => [weight, matrices[at]] as const));
  return rewrite(graph, {
    visit(node, inputs) {
      const product = productOf(node);
      const matrix = product && table.get(product.weight);
      if (!matrix) return undefined;
      return withScope(node.scope, () => [
        quantizedProduct(inputs[0] as Value, matrix, node.op === "Gemm" ? inputs[2] : undefined),
      ]);
    },
  });
}

interface Product {
  readonly weight: Value;
  /** Stored inputs by outputs. */
  readonly turned: boolean;
  readonly rows: number;
  readonly columns: number;
}

const number = (node: Node, name: string, fallback: number): number => {
  const attr = node.attrs[name];
  return attr && "i" in attr ? Number(attr.i) : attr && "f" in attr ? attr.f : fallback;
};

/** A plain product with a constant matrix. */
function productOf(node: Node): Product | undefined {
  const weight = node.inputs[1];
  const isProduct = node.domain === "" && (node.op === "MatMul" || node.op === "Gemm");
  if (
    !isProduct ||
    weight?.source.kind !== "constant" ||
    weight.dtype !== "float32" ||
    weight.shape.length !== 2
  )
    return undefined;
  const isPlain =
    number(node, "transA", 0) === 0 && number(node, "alpha", 1) === 1 && number(node, "beta", 1) === 1;
  if (!isPlain) return undefined;
  const turned = node.op === "MatMul" || number(node, "transB", 0) === 0;
  const [first, second] = weight.shape as [number, number];
  return turned
    ? { weight, turned, rows: second, columns: first }
    : { weight, turned, rows: first, columns: second };
}

function pendingOf(weight: Value, turned: boolean): PendingMatrix {
  const [first, second] = weight.shape as [number, number];
  return {
    name: weight.name ?? `weight_${weight.id}`,
    rows: turned ? second : first,
    columns: turned ? first : second,
    async load() {
      const { source } = weight;
      if (source.kind !== "constant") return new Float32Array(0);
      const data = toFloat32(isTensorRef(source.data) ? await readTensor(source.data) : source.data);
      if (!turned) return data;
      const out = new Float32Array(data.length);
      for (let row = 0; row < first; row++)
        for (let column = 0; column < second; column++)
          out[column * first + row] = data[row * second + column] as number;
      return out;
    },
  };
}
