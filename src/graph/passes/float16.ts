import { joinPath, openFile, tempDir, writeFileAtomic } from "#io";
import { TunesmithError } from "../../errors/index.js";
import {
  bytesOf,
  dtypeFromOnnx,
  dtypeToOnnx,
  float32ToFloat16,
  isTensorRef,
  readTensor,
  type TensorRef,
  tensor,
} from "../../tensor/index.js";
import { constant, describe, makeNode } from "../create.js";
import { cast } from "../ops/index.js";
import { rewriteValues } from "../rewrite.js";
import { nodesOf, reach, subgraphs } from "../traverse.js";
import type { Attrs, Graph, Node, Value } from "../types.js";
import { lowerMarkers } from "./lower-markers.js";

export interface ToFloat16Options {
  /** Operators that go on in float32, besides norms, softmax and others that half precision is too coarse for. */
  readonly islands?: readonly string[];
}

/** Sums over many numbers, exponentials and small epsilons: computed in float32 between casts. */
const ISLANDS = new Set(
  `Softmax LogSoftmax LayerNormalization GroupNormalization InstanceNormalization BatchNormalization RMSNormalization
  SimplifiedLayerNormalization SkipLayerNormalization SkipSimplifiedLayerNormalization EmbedLayerNormalization GroupNorm
  SkipGroupNorm ReduceMean ReduceSum ReduceSumSquare ReduceL2 ReduceLogSumExp Pow Exp Log Sqrt Reciprocal CumSum Range
  TopK RoiAlign NonMaxSuppression Resize Upsample DynamicQuantizeLinear LSTM GRU RNN`.split(/\s+/),
);

const LARGEST = 65504;

/**
 * The graph with weights and activations in half precision, but for islands of float32 (norms, softmax, sums); inputs and outputs
 * keep their types. Numbers beyond ±65504, such as those that masks add, become ±65504; infinities stay. Weights go to a
 * temporary file one at a time.
 *
 * Throws `op-unknown` for graphs with If, Loop or Scan: lay those out first with `inlineControlFlow`.
 *
 * @example
 * ```ts
 * import { loadOnnx, quantizeGraph, saveOnnx, toFloat16 } from "tunesmith/graph";
 * const { graph } = await loadOnnx("model.onnx");
 * await saveOnnx(await toFloat16(graph), "model_fp16.onnx");
 * await saveOnnx(await toFloat16(await quantizeGraph(graph, "int4")), "model_q4f16.onnx");
 * ```
 */
export async function toFloat16(given: Graph, options: ToFloat16Options = {}): Promise<Graph> {
  const graph = lowerMarkers(given);
  const nested = nodesOf(graph).find((node) => subgraphs(node).length > 0);
  if (nested) {
    throw new TunesmithError(
      "op-unknown",
      `${describe(nested)} has a graph of its own, which cannot be made half`,
      {
        fix: "lay it out first: inlineControlFlow(graph)",
      },
    );
  }
  const islands = new Set([...ISLANDS, ...(options.islands ?? [])]);
  const narrow = await narrowed(graph);
  // One cast for all readers of a value.
  const casts = new Map<Value, Value>();
  const to = (value: Value, dtype: "float16" | "float32"): Value => {
    if (value.dtype === dtype || (value.dtype !== "float16" && value.dtype !== "float32")) return value;
    if (value.source.kind === "node" && value.source.node.op === "Cast") {
      const [below] = value.source.node.inputs;
      if (below?.dtype === dtype) return below;
    }
    const found = casts.get(value) ?? cast(value, dtype);
    casts.set(value, found);
    return found;
  };
  const get = rewriteValues(graph.outputs.values(), {
    replace: narrow,
    visit(node, inputs) {
      const isIsland = islands.has(node.op);
      const dtype = isIsland ? "float32" : "float16";
      const operands = inputs.map((value) => value && to(value, dtype));
      return makeNode(node.op, operands, isIsland ? node.attrs : halfAttrs(node), {
        domain: node.domain,
        outputs: node.outputs.length,
        name: node.name,
        scope: node.scope,
        outputNames: node.outputs.map((value) => value.name),
        fallback: node.outputs.map((value) => ({
          dtype: value.dtype === "float32" ? dtype : value.dtype,
          shape: value.shape,
        })),
      }).outputs;
    },
  });
  const outputs = [...graph.outputs].map(([name, value]): [string, Value] => {
    const now = get(value);
    return [name, value.dtype === "float32" ? to(now, "float32") : now];
  });
  return { ...graph, outputs: new Map(outputs) };
}

/** Casts to float32 become casts to float16; tensors as attributes are narrowed. */
function halfAttrs(node: Node): Attrs {
  const entries = Object.entries(node.attrs).map(([name, attr]): [string, Attrs[string]] => {
    if ("t" in attr && attr.t.dtype === "float32")
      return [name, { t: tensor("float16", attr.t.shape, halves(attr.t.data as Float32Array)) }];
    const names = (name === "to" || name === "dtype") && "i" in attr && Number(attr.i) > 0;
    return names && dtypeFromOnnx(Number(attr.i)) === "float32"
      ? [name, { i: dtypeToOnnx("float16") }]
      : [name, attr];
  });
  return Object.fromEntries(entries);
}

function halves(data: Float32Array): Uint16Array {
  return float32ToFloat16(
    data.map((value) => (Number.isFinite(value) ? Math.max(-LARGEST, Math.min(LARGEST, value)) : value)),
  );
}

/** Every float32 constant in half precision, in a temporary file. */
async function narrowed(graph: Graph): Promise<Map<Value, Value>> {
  const wide = reach(graph.outputs.values()).values.filter(
    ({ source, dtype }) => source.kind === "constant" && dtype === "float32",
  );
  const narrow = new Map<Value, Value>();
  const placed: [Value, Omit<TensorRef, "source">][] = [];
  if (wide.length === 0) return narrow;
  const path = joinPath(await tempDir("tunesmith-f16-", { untilExit: true }), "weights.bin");
  await writeFileAtomic(path, async (writer) => {
    for (const value of wide) {
      if (value.source.kind !== "constant") continue;
      const { data } = value.source;
      const whole = isTensorRef(data) ? await readTensor(data) : data;
      const half = tensor("float16", whole.shape, halves(whole.data as Float32Array));
      const bytes = bytesOf(half);
      const gap = (64 - (writer.position % 64)) % 64;
      if (gap > 0) await writer.write(new Uint8Array(gap));
      const { dtype, shape } = half;
      placed.push([
        value,
        { dtype, shape, offset: writer.position, byteLength: bytes.byteLength, name: value.name ?? "" },
      ]);
      await writer.write(bytes);
    }
  });
  const source = await openFile(path);
  // Small ones are read back, so that shapes and axes stay known.
  for (const [value, place] of placed) {
    const ref = { ...place, source };
    narrow.set(value, constant(place.byteLength <= 1024 ? await readTensor(ref) : ref, value.name));
  }
  return narrow;
}
