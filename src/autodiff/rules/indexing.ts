import { type Dim, type Node, normalAxis, op, ops, type Shape, type Value } from "../../graph/index.js";
import { intAttr, stringAttr } from "../../graph/infer/types.js";
import type { VjpContext, VjpRule, VjpTable } from "../types.js";
import { inverse, mask, zeros } from "./combinators.js";

/** Rows of an axis go back where they came from: scatter-add into zeros, the gathered axis first. */
export function ungather(
  dy: Value,
  indices: Value,
  axis: number,
  shape: Shape,
  like: readonly Value[],
): Value {
  const rank = indices.shape.length;
  const toFront = [
    ...indices.shape.map((_, at) => axis + at),
    ...[...dy.shape.keys()].filter((at) => at < axis || at >= axis + rank),
  ];
  const perm = [axis, ...[...shape.keys()].filter((at) => at !== axis)];
  const empty = ops.full(
    perm.map((at) => shape[at] as Dim),
    0,
    dy.dtype,
    like,
  );
  const scattered = ops.scatterNd(
    empty,
    ops.unsqueeze(ops.cast(indices, "int64"), -1),
    ops.transpose(dy, toFront),
    "add",
  );
  return ops.transpose(scattered, inverse(perm));
}

const axisOf = (node: Node, rank: number, fallback = 0): number =>
  normalAxis(intAttr(node.attrs, "axis", fallback), rank, node.op);

/** Reads and writes at the positions that an indexing operator names. */
interface Access {
  readonly read: (data: Value) => Value;
  readonly write: (data: Value, updates: Value, reduction: ops.Reduction) => Value;
}

function accessOf({ node, inputs }: VjpContext): Access {
  const indices = inputs[1] as Value;
  if (node.op.endsWith("ND")) {
    return {
      read: (data) => ops.gatherNd(data, indices),
      write: (data, updates, reduction) => ops.scatterNd(data, indices, updates, reduction),
    };
  }
  const axis = axisOf(node, indices.shape.length);
  return {
    read: (data) => ops.gatherElements(data, indices, axis),
    write: (data, updates, reduction) => ops.scatterElements(data, indices, updates, axis, reduction),
  };
}

const scatter: VjpRule = (context) => {
  const { dy, inputs, outputs, needs, node } = context;
  const [data, , updates, y] = [...inputs.slice(0, 3), outputs[0]] as [Value, Value, Value, Value];
  const { read, write } = accessOf(context);
  const reduction = stringAttr(node.attrs, "reduction", "none");
  if (reduction === "none") {
    return [
      needs(0) ? write(dy, ops.zerosLike(updates), "none") : undefined,
      undefined,
      needs(2) ? read(dy) : undefined,
    ];
  }
  if (reduction === "add") return [dy, undefined, needs(2) ? read(dy) : undefined];
  if (reduction === "mul") {
    // y = data·(product of its updates): the other factors are y without one of them.
    const factor = () => write(ops.full(data.shape, 1, data.dtype, [data]), updates, "mul");
    return [
      needs(0) ? ops.mul(dy, factor()) : undefined,
      undefined,
      needs(2) ? ops.div(read(ops.mul(dy, y)), updates) : undefined,
    ];
  }
  // max, min: those that attain the result share the gradient evenly.
  const [kept, chosen] = [mask(ops.equal(data, y), y), mask(ops.equal(updates, read(y)), y)];
  const share = ops.div(dy, write(kept, chosen, "add"));
  return [
    needs(0) ? ops.mul(share, kept) : undefined,
    undefined,
    needs(2) ? ops.mul(read(share), chosen) : undefined,
  ];
};

/** GatherND with batch axes, as one without: the batch positions become part of the index. */
function withBatchIndices(indices: Value, batch: number): Value {
  let full = indices;
  for (let axis = batch - 1; axis >= 0; axis--) {
    const length = op("Squeeze", [op("Shape", [indices], { start: { i: axis }, end: { i: axis + 1 } })]);
    const range = op("Range", [ops.scalar(0, "int64"), length, ops.scalar(1, "int64")]);
    const rank = indices.shape.length;
    const lifted = ops.reshape(
      range,
      Array.from({ length: rank }, (_, at) => (at === axis ? -1 : 1)),
    );
    const shape = indices.shape.with(-1, 1);
    full = ops.concat([ops.expand(lifted, shape, [indices]), full], -1);
  }
  return full;
}

export const indexing: VjpTable = {
  Gather: ({ dy, inputs, node }) => {
    const [data, indices] = [inputs[0] as Value, inputs[1] as Value];
    return [ungather(dy, indices, axisOf(node, data.shape.length), data.shape, [data])];
  },
  GatherElements: (context) => {
    const data = context.inputs[0] as Value;
    return [accessOf(context).write(zeros(data.shape, data), context.dy, "add")];
  },
  GatherND: ({ dy, inputs, node }) => {
    const [data, indices] = [inputs[0] as Value, inputs[1] as Value];
    const full = withBatchIndices(indices, intAttr(node.attrs, "batch_dims", 0));
    return [ops.scatterNd(zeros(data.shape, data), full, dy, "add")];
  },
  ScatterElements: scatter,
  ScatterND: scatter,
  TopK: ({ dys, inputs, outputs, node }) => {
    const x = inputs[0] as Value;
    const dy = dys[0];
    if (!dy) return [];
    return [
      ops.scatterElements(zeros(x.shape, x), outputs[1] as Value, dy, axisOf(node, x.shape.length, -1)),
    ];
  },
  Trilu: ({ dy, inputs, node }) => [op("Trilu", inputs[1] ? [dy, inputs[1]] : [dy], node.attrs)],
  ReverseSequence: ({ dy, inputs, node }) => [op("ReverseSequence", [dy, inputs[1]], node.attrs)],
};
