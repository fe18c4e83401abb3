import { TunesmithError } from "../../errors/index.js";
import { constantNumbers } from "../constants.js";
import { dimAdd, dimDiv, dimMul, dimProduct, dimSub, normalAxis, showShape } from "../dims.js";
import { intsOf, numbersOf } from "../ints.js";
import type { Dim, Shape, Value } from "../types.js";
import {
  axisAttr,
  type InferContext,
  type InferRule,
  intAttr,
  intsAttr,
  like,
  mismatch,
  need,
  where,
} from "./types.js";

/** Constant integers of input `index`; throws when they are not known before running. */
export function needInts(context: InferContext, index: number, what: string): readonly Dim[] {
  const ints = intsOf(need(context, index));
  if (!ints) {
    throw new TunesmithError("graph-invalid", `${where(context)}: ${what} depends on data at run time`, {
      fix: "bind the graph's symbolic dimensions with specialise() first, or export the model with static shapes",
    });
  }
  return ints;
}

/**
 * A shape given as input `index`. Axes that depend on data at run time become symbols of their own, as long as
 * their number is known.
 */
function needShape(context: InferContext, index: number): readonly Dim[] {
  const value = need(context, index);
  const partly = (part: Value): readonly Dim[] | undefined => {
    const ints = intsOf(part);
    if (ints) return ints;
    if (part.source.kind === "node" && part.source.node.op === "Concat") {
      const parts = part.source.node.inputs.map((item) => item && partly(item));
      return parts.every((item) => item !== undefined) ? parts.flat() : undefined;
    }
    const [rank] = part.shape;
    if (part.shape.length !== 1 || typeof rank !== "number" || rank > 64) return undefined;
    return Array.from({ length: rank }, (_, axis) => `axis_${part.id}_${axis}`);
  };
  return partly(value) ?? needInts(context, index, "the number of axes");
}

const reshape: InferRule = (context) => {
  const x = need(context, 0);
  const wanted = needShape(context, 1);
  const allowZero = intAttr(context.attrs, "allowzero", 0);
  const dims = wanted.map((dim, axis) => (dim === 0 && !allowZero ? (x.shape[axis] as Dim) : dim));
  const hole = dims.indexOf(-1);
  if (hole >= 0) {
    const known = dimProduct(dims.filter((_, axis) => axis !== hole));
    dims[hole] = quotient(x.shape, dims, hole) ?? dimDiv(dimProduct(x.shape), known);
  }
  const [before, after] = [dimProduct(x.shape), dimProduct(dims)];
  if (typeof before === "number" && typeof after === "number" && before !== after) {
    throw mismatch(
      context,
      `cannot reshape ${showShape(x.shape)} (${before} elements) to ${showShape(wanted)}`,
    );
  }
  return [like(x, dims)];
};

/** -1 resolved by cancelling equal axes first, so that symbolic dims stay readable. */
function quotient(from: Shape, to: readonly Dim[], hole: number): Dim | undefined {
  const rest = [...from];
  let divisor = 1;
  for (const [axis, dim] of to.entries()) {
    if (axis === hole) continue;
    const at = rest.indexOf(dim);
    if (at >= 0) rest.splice(at, 1);
    else if (typeof dim === "number") divisor *= dim;
    else return undefined;
  }
  const numbers = rest.filter((dim) => typeof dim === "number").reduce<number>((a, b) => a * Number(b), 1);
  if (numbers % divisor !== 0) return undefined;
  return dimProduct([...rest.filter((dim) => typeof dim === "string"), numbers / divisor]);
}

const transpose: InferRule = (context) => {
  const x = need(context, 0);
  const perm = intsAttr(context.attrs, "perm") ?? x.shape.map((_, axis) => x.shape.length - 1 - axis);
  if (perm.length !== x.shape.length) throw mismatch(context, `perm [${perm}] does not fit the rank`);
  return [
    like(
      x,
      perm.map((axis) => x.shape[axis] as Dim),
    ),
  ];
};

const concat: InferRule = (context) => {
  const first = need(context, 0);
  const axis = axisAttr(context, "axis", 0, first.shape.length);
  const shape = [...first.shape];
  for (const value of context.inputs.slice(1) as Value[]) {
    if (value.dtype !== first.dtype || value.shape.length !== shape.length)
      throw mismatch(context, "operands differ");
    value.shape.forEach((dim, at) => {
      if (at === axis) shape[at] = dimAdd(shape[at] as Dim, dim);
      else if (typeof dim === "number" && typeof shape[at] === "string") shape[at] = dim;
      else if (typeof dim === "number" && dim !== shape[at]) throw mismatch(context, `axis ${at} differs`);
    });
  }
  return [like(first, shape)];
};

const split: InferRule = (context) => {
  const x = need(context, 0);
  const axis = axisAttr(context, "axis", 0, x.shape.length);
  const sizes = context.inputs[1] ? needInts(context, 1, "the split sizes") : undefined;
  const count = sizes?.length ?? intAttr(context.attrs, "num_outputs", context.outputs ?? 0);
  if (!count || count > 65536) throw mismatch(context, "Split needs sizes or a sensible num_outputs");
  const total = x.shape[axis] as Dim;
  const chunk = typeof total === "number" ? Math.ceil(total / count) : dimDiv(total, count);
  return Array.from({ length: count }, (_, index) => {
    const last =
      typeof total === "number" && index === count - 1 ? total - Number(chunk) * (count - 1) : chunk;
    const size = sizes?.[index] ?? last;
    return like(
      x,
      x.shape.map((dim, at) => (at === axis ? size : dim)),
    );
  });
};

const slice: InferRule = (context) => {
  const x = need(context, 0);
  const [starts, ends] = [intsOf(need(context, 1)), intsOf(need(context, 2))];
  if (!starts || !ends) return [like(x, unknownSlice(context, x))];
  const axes = context.inputs[3] ? numbersOf(context.inputs[3]) : starts.map((_, index) => index);
  const steps = context.inputs[4] ? numbersOf(context.inputs[4]) : starts.map(() => 1);
  const shape = [...x.shape];
  (axes ?? []).forEach((raw, index) => {
    const axis = normalAxis(raw, shape.length, where(context));
    const length = sliceLength(
      shape[axis] as Dim,
      starts[index] as Dim,
      ends[index] as Dim,
      steps?.[index] ?? 1,
    );
    shape[axis] = length;
  });
  return [like(x, shape)];
};

/** Only which axes are cut is known. */
function unknownSlice(context: InferContext, x: Value): Dim[] {
  const count = need(context, 1).shape[0];
  const leading = typeof count === "number" ? Array.from({ length: count }, (_, axis) => axis) : undefined;
  const listed = context.inputs[3] ? numbersOf(context.inputs[3]) : leading;
  const cut = listed?.map((axis) => normalAxis(axis, x.shape.length, where(context)));
  return x.shape.map((dim, axis) =>
    !cut || cut.includes(axis) ? `cut_${need(context, 2).id}_${axis}` : dim,
  );
}

function sliceLength(dim: Dim, start: Dim, end: Dim, step: number): Dim {
  if (typeof dim === "number" && typeof start === "number" && typeof end === "number") {
    const clamp = (at: number, low: number, high: number) =>
      Math.min(Math.max(at < 0 ? at + dim : at, low), high);
    const [from, to] =
      step > 0
        ? [clamp(start, 0, dim), clamp(end, 0, dim)]
        : [clamp(start, 0, dim - 1), clamp(end, -1, dim - 1)];
    return Math.max(0, Math.ceil((to - from) / step));
  }
  const open = typeof end === "number" && end >= 2 ** 31 - 1;
  if (step === 1 && (open || end === dim))
    return start === 0 ? dim : typeof start === "number" && start < 0 ? -start : dimSub(dim, start);
  if (step === 1 && start === 0 && !(typeof end === "number" && end < 0)) return end;
  if (step === 1 && typeof end === "number" && end < 0) return dimSub(dimAdd(dim, end), start);
  return step === 1 ? dimSub(end, start) : `slice(${dim},${start},${end},${step})`;
}

const unsqueezed = (context: InferContext): OutputShape => {
  const x = need(context, 0);
  const axes = needInts(context, 1, "axes") as number[];
  const rank = x.shape.length + axes.length;
  const places = new Set(axes.map((axis) => normalAxis(axis, rank, where(context))));
  let from = 0;
  return Array.from({ length: rank }, (_, axis) => (places.has(axis) ? 1 : (x.shape[from++] as Dim)));
};
type OutputShape = Dim[];

const squeezed = (context: InferContext): OutputShape => {
  const x = need(context, 0);
  const axes = context.inputs[1]
    ? (needInts(context, 1, "axes") as number[]).map((axis) =>
        normalAxis(axis, x.shape.length, where(context)),
      )
    : x.shape.flatMap((dim, axis) => (dim === 1 ? [axis] : []));
  return x.shape.filter((_, axis) => !axes.includes(axis));
};

const flatten: InferRule = (context) => {
  const x = need(context, 0);
  const raw = intAttr(context.attrs, "axis", 1);
  const axis = raw < 0 ? raw + x.shape.length : raw;
  return [like(x, [dimProduct(x.shape.slice(0, axis)), dimProduct(x.shape.slice(axis))])];
};

const pad: InferRule = (context) => {
  const x = need(context, 0);
  const pads = needInts(context, 1, "pads");
  const axes =
    numbersOf(context.inputs[3])?.map((axis) => normalAxis(axis, x.shape.length, where(context))) ??
    x.shape.map((_, axis) => axis);
  const shape = [...x.shape];
  axes.forEach((axis, at) => {
    shape[axis] = dimAdd(dimAdd(shape[axis] as Dim, pads[at] as Dim), pads[at + axes.length] as Dim);
  });
  return [like(x, shape)];
};

const expand: InferRule = (context) => {
  const x = need(context, 0);
  const target = needShape(context, 1);
  const rank = Math.max(target.length, x.shape.length);
  const shape = Array.from({ length: rank }, (_, axis) => {
    const a = x.shape[axis - (rank - x.shape.length)] ?? 1;
    const b = target[axis - (rank - target.length)] ?? 1;
    if (typeof a === "number" && typeof b === "number" && a !== b && a !== 1 && b !== 1) {
      throw mismatch(context, `cannot expand ${showShape(x.shape)} to ${showShape(target)}`);
    }
    return a === 1 ? b : a;
  });
  return [like(x, shape)];
};

const range: InferRule = (context) => {
  const [start, limit, delta] = [0, 1, 2].map((index) => {
    const value = need(context, index);
    return intsOf(value)?.[0] ?? constantNumbers(value)?.[0];
  });
  const length =
    typeof start === "number" && typeof limit === "number" && typeof delta === "number"
      ? Math.max(0, Math.ceil((limit - start) / delta))
      : start === 0 && delta === 1 && limit !== undefined
        ? limit
        : `range_${need(context, 1).id}`;
  return [like(need(context, 0), [length])];
};

export const shapes: Record<string, InferRule> = {
  Reshape: reshape,
  Transpose: transpose,
  Concat: concat,
  Split: split,
  Slice: slice,
  Flatten: flatten,
  Pad: pad,
  Expand: expand,
  Range: range,
  Unsqueeze: (context) => [like(need(context, 0), unsqueezed(context))],
  Squeeze: (context) => [like(need(context, 0), squeezed(context))],
  Shape: (context) => {
    const { length } = need(context, 0).shape;
    const wrap = (at: number) => Math.min(at < 0 ? at + length : at, length);
    return [
      {
        dtype: "int64",
        shape: [
          Math.max(0, wrap(intAttr(context.attrs, "end", length)) - wrap(intAttr(context.attrs, "start", 0))),
        ],
      },
    ];
  },
  Size: () => [{ dtype: "int64", shape: [] }],
  ConstantOfShape: (context) => {
    const attr = context.attrs.value;
    return [{ dtype: attr && "t" in attr ? attr.t.dtype : "float32", shape: needShape(context, 0) }];
  },
  Tile: (context) => {
    const repeats = needInts(context, 1, "repeats");
    return [
      like(
        need(context, 0),
        need(context, 0).shape.map((dim, axis) => dimMul(dim, repeats[axis] ?? 1)),
      ),
    ];
  },
};
