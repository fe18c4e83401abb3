import { intsOf } from "../ints.js";
import type { Dim, Graph, Shape, Value } from "../types.js";
import {
  type InferContext,
  type InferRule,
  intAttr,
  intsAttr,
  mismatch,
  need,
  type OutputSpec,
} from "./types.js";

function body(context: InferContext, name: string): Graph {
  const attr = context.attrs[name];
  if (attr && "g" in attr) return attr.g;
  throw mismatch(context, `attribute '${name}' must be a graph`);
}

/** The shape two runs of a sub-graph may both give: axes that differ become an unknown of their own. */
function meet(context: InferContext, a: Shape, b: Shape, id: number): Shape {
  if (a.length !== b.length)
    throw mismatch(context, `a result has rank ${a.length} or ${b.length}, which must be one`);
  return a.map((dim, axis) => (dim === b[axis] ? dim : `branch_${id}_${axis}`));
}

const conditional: InferRule = (context) => {
  const yes = [...body(context, "then_branch").outputs.values()];
  const no = [...body(context, "else_branch").outputs.values()];
  if (yes.length !== no.length) throw mismatch(context, "both branches must have the same number of outputs");
  return yes.map((value, index) => {
    const other = no[index] as Value;
    if (other.dtype !== value.dtype)
      throw mismatch(context, `output ${index} is ${value.dtype} or ${other.dtype}`);
    return { dtype: value.dtype, shape: meet(context, value.shape, other.shape, value.id) };
  });
};

/** Whether a loop's condition never turns false: then the trip count is known. */
function neverStops(context: InferContext, graph: Graph): boolean {
  const start = context.inputs[1];
  if (start && intsOf(start)?.[0] !== 1) return false;
  let going = [...graph.outputs.values()][0];
  while (going?.source.kind === "node" && going.source.node.op === "Identity")
    going = going.source.node.inputs[0];
  return going !== undefined && (going === graph.inputs[1] || intsOf(going)?.[0] === 1);
}

const loop: InferRule = (context) => {
  const graph = body(context, "body");
  const results = [...graph.outputs.values()].slice(1);
  const initial = context.inputs.slice(2);
  if (results.length < initial.length)
    throw mismatch(context, "the body must return every loop-carried value");
  const trips = context.inputs[0] && intsOf(context.inputs[0])?.[0];
  const first = results[0] ?? graph.inputs[0];
  const length: Dim = neverStops(context, graph) && trips !== undefined ? trips : `loop_${first?.id ?? 0}`;
  return results.map((value, index): OutputSpec => {
    const start = initial[index];
    if (!start) return { dtype: value.dtype, shape: [length, ...value.shape] };
    return { dtype: value.dtype, shape: meet(context, start.shape, value.shape, value.id) };
  });
};

const scan: InferRule = (context) => {
  const graph = body(context, "body");
  const scanned = intAttr(context.attrs, "num_scan_inputs", 1);
  const states = context.inputs.length - scanned;
  const inAxes = intsAttr(context.attrs, "scan_input_axes") ?? [];
  const outAxes = intsAttr(context.attrs, "scan_output_axes") ?? [];
  const sequence = need(context, states);
  const length = sequence.shape.at(inAxes[0] ?? 0) as Dim;
  return [...graph.outputs.values()].map((value, index): OutputSpec => {
    if (index < states) return { dtype: value.dtype, shape: need(context, index).shape };
    const raw = outAxes[index - states] ?? 0;
    const axis = raw < 0 ? raw + value.shape.length + 1 : raw;
    return { dtype: value.dtype, shape: [...value.shape.slice(0, axis), length, ...value.shape.slice(axis)] };
  });
};

export const control: Record<string, InferRule> = { If: conditional, Loop: loop, Scan: scan };
