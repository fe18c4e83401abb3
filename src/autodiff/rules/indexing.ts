import { type Dim, normalAxis, ops, type Value } from "../../graph/index.js";
import type { VjpTable } from "../types.js";

export const indexing: VjpTable = {
  /** Rows go back where they came from: scatter-add into zeros, the gathered axis first. */
  Gather: ({ dy, inputs, node }) => {
    const [data, indices] = [inputs[0] as Value, inputs[1] as Value];
    const attr = node.attrs.axis;
    const axis = normalAxis(attr && "i" in attr ? Number(attr.i) : 0, data.shape.length, "Gather");
    const rank = indices.shape.length;
    const toFront = [
      ...indices.shape.map((_, at) => axis + at),
      ...[...dy.shape.keys()].filter((at) => at < axis || at >= axis + rank),
    ];
    const perm = [axis, ...[...data.shape.keys()].filter((at) => at !== axis)];
    const zeros = ops.full(perm.map((at) => data.shape[at] as Dim), 0, dy.dtype, [data]);
    const scattered = ops.scatterNd(zeros, ops.unsqueeze(indices, -1), ops.transpose(dy, toFront), "add");
    return [ops.transpose(scattered, perm.map((_, at) => perm.indexOf(at)))];
  },
  GatherElements: ({ dy, inputs, node }) => {
    const [data, indices] = [inputs[0] as Value, inputs[1] as Value];
    const attr = node.attrs.axis;
    const axis = attr && "i" in attr ? Number(attr.i) : 0;
    return [ops.scatterElements(ops.zerosLike(data), indices, dy, axis, "add")];
  },
};
