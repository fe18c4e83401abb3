import {
  type Dtype,
  dtypeFromOnnx,
  dtypeToOnnx,
  isTensorRef,
  readTensor,
  type Tensor,
  tensor,
  toFloat32,
} from "../../tensor/index.js";
import { constant, input, makeNode } from "../create.js";
import { cast } from "../ops/index.js";
import { rewriteValues, substitute } from "../rewrite.js";
import { nestedGraphs, subgraphs } from "../traverse.js";
import type { Attr, Attrs, Graph, Node, Value } from "../types.js";

export interface InFloat32Options {
  /** Whether inputs and outputs of the graph keep their half-precision types (default), or become float32 too. */
  readonly interface?: "keep" | "float32";
}

const HALF: ReadonlySet<Dtype> = new Set(["float16", "bfloat16"]);
const isHalf = (value: Value) => HALF.has(value.dtype);

/** Attributes that name the dtype of a result. */
const DTYPE_ATTRIBUTES = new Set(["to", "dtype", "output_dtype"]);

/** Weights of up to this many elements are made float32 constants at once. */
const SMALL = 64;

/**
 * The same computation in single precision: for training a model whose file is in float16 or bfloat16. Weights stay
 * stored as they are, behind a Cast that ONNX Runtime does once, when a session is created. Results differ from the
 * original's by what that loses to rounding.
 *
 * @example
 * ```ts
 * import { inFloat32, loadOnnx } from "tunesmith/graph";
 * const { graph } = await loadOnnx("model_fp16.onnx");
 * const trainable = inFloat32(graph, { interface: "float32" });
 * console.log([...trainable.outputs.values()].map((value) => value.dtype)); // float32
 * ```
 */
export function inFloat32(graph: Graph, options: InFloat32Options = {}): Graph {
  const keep = (options.interface ?? "keep") === "keep";
  const replace = new Map<Value, Value>();
  for (const { graph: each, values } of nestedGraphs(graph)) {
    for (const value of each.inputs.filter(isHalf)) {
      const outside = keep && each === graph;
      replace.set(value, outside ? cast(value, "float32") : input(value.name ?? "", "float32", value.shape));
    }
    for (const value of values)
      if (isHalf(value) && value.source.kind === "constant") replace.set(value, wide(value));
  }
  const get = rewriteValues(graph.outputs.values(), { replace, visit: widened });
  const outputs = [...graph.outputs].map(([name, value]): [string, Value] => {
    const now = get(value);
    return [name, keep && isHalf(value) ? cast(now, value.dtype) : now];
  });
  const inputs = keep ? graph.inputs : graph.inputs.map((value) => replace.get(value) ?? value);
  return { ...graph, inputs, outputs: new Map(outputs) };
}

function wide(value: Value): Value {
  const { source } = value;
  if (source.kind !== "constant" || isTensorRef(source.data) || source.data.data.length > SMALL)
    return cast(value, "float32");
  return constant(wideTensor(source.data), value.name);
}

const wideTensor = (data: Tensor): Tensor => tensor("float32", data.shape, toFloat32(data));

/**
 * Reads the half-precision weights of a graph and makes them float32 constants of the same names: before `inFloat32`, for code
 * that looks for weights where they are used. Takes the memory of the whole model in float32.
 *
 * Throws what reading the file throws.
 *
 * @example
 * ```ts
 * import { inFloat32, loadOnnx, widenWeights } from "tunesmith/graph";
 * const { graph } = await loadOnnx("model_fp16.onnx");
 * const plain = inFloat32(await widenWeights(graph), { interface: "float32" });
 * console.log(plain.inputs.length);
 * ```
 */
export async function widenWeights(graph: Graph): Promise<Graph> {
  const halves = new Set([...nestedGraphs(graph)].flatMap(({ values }) => values.filter(isHalf)));
  const replace = new Map<Value, Value>();
  for (const value of halves) {
    if (value.source.kind !== "constant") continue;
    const { data } = value.source;
    const wider = wideTensor(isTensorRef(data) ? await readTensor(data) : data);
    // The graph around still computes in halves: what it sees is the weight, narrowed.
    replace.set(value, cast(constant(wider, value.name), value.dtype));
  }
  return substitute(graph, replace);
}

/** A node over wider operands: where it would give a half it gives a float32. */
function widened(node: Node, inputs: readonly (Value | undefined)[]): readonly Value[] | undefined {
  const [x, like] = inputs;
  const target = node.op === "Cast" ? node.outputs[0]?.dtype : undefined;
  if (x && target && x.dtype === (HALF.has(target) ? "float32" : target)) return [x];
  if (node.op === "CastLike" && x && like?.dtype === "float32") return [cast(x, "float32")];
  if (!node.outputs.some(isHalf) || subgraphs(node).length > 0) return undefined;
  return makeNode(node.op, inputs, wideAttrs(node.attrs), {
    domain: node.domain,
    outputs: node.outputs.length,
    name: node.name,
    scope: node.scope,
    outputNames: node.outputs.map((value) => value.name),
    fallback: node.outputs.map(({ dtype, shape }) => ({
      dtype: HALF.has(dtype) ? "float32" : dtype,
      shape,
    })),
  }).outputs;
}

const wideAttrs = (attrs: Attrs): Attrs =>
  Object.fromEntries(Object.entries(attrs).map(([name, attr]) => [name, wideAttr(name, attr)]));

function wideAttr(name: string, attr: Attr): Attr {
  if ("t" in attr && HALF.has(attr.t.dtype)) return { t: wideTensor(attr.t) };
  if (!("i" in attr) || !DTYPE_ATTRIBUTES.has(name) || Number(attr.i) === 0) return attr;
  return HALF.has(dtypeFromOnnx(Number(attr.i))) ? { i: dtypeToOnnx("float32") } : attr;
}
