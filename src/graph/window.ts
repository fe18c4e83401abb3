import { TunesmithError } from "../errors/index.js";
import { describe } from "./create.js";
import { dimAdd, dimDiv, dimSub } from "./dims.js";
import { intAttr, intsAttr, stringAttr } from "./infer/types.js";
import type { Attrs, Dim, Shape, Value } from "./types.js";

/** What of a node the geometry is read from. */
export interface WindowNode {
  readonly op: string;
  readonly domain: string;
  readonly scope: string;
  readonly name?: string | undefined;
  readonly attrs: Attrs;
  readonly inputs: readonly (Value | undefined)[];
}

/** The sliding window of a convolution or pooling node, one entry per spatial axis, `auto_pad` resolved. */
export interface Window {
  readonly kernel: readonly number[];
  readonly strides: readonly number[];
  readonly dilations: readonly number[];
  readonly before: readonly number[];
  readonly after: readonly number[];
  readonly group: number;
  /** Spatial lengths of the result. */
  readonly output: readonly Dim[];
}

/** Reads the window of Conv, MaxPool, AveragePool or LpPool. Throws `graph-invalid` naming the node. */
export function windowOf(node: WindowNode): Window {
  const base = readWindow(node);
  const { input, kernel, strides, dilations } = base;
  const { before, after } = autoPads(node, base, (axis) => {
    const size = staticDim(node, input[axis]);
    return (
      (Math.ceil(size / at(strides, axis)) - 1) * at(strides, axis) + extent(kernel, dilations, axis) - size
    );
  });
  const ceil = intAttr(node.attrs, "ceil_mode", 0) !== 0;
  const output = input.map((dim, axis): Dim => {
    const room = dimSub(dimAdd(dim, at(before, axis) + at(after, axis)), extent(kernel, dilations, axis));
    const stride = at(strides, axis);
    if (!ceil || typeof room !== "number")
      return dimAdd(dimDiv(ceil ? dimAdd(room, stride - 1) : room, stride), 1);
    const steps = Math.ceil(room / stride);
    // A window may not start in the padding behind the data.
    const last = steps * stride >= Number(dim) + at(before, axis) ? steps - 1 : steps;
    return last + 1;
  });
  return { ...base, before, after, output };
}

/** The window of ConvTranspose: that of the convolution it is the transpose of, and the lengths it produces. */
export function transposedWindowOf(node: WindowNode): Window & { readonly outputPadding: readonly number[] } {
  const base = readWindow(node);
  const { input, kernel, strides, dilations } = base;
  const wanted = intsAttr(node.attrs, "output_shape")?.slice(-kernel.length);
  const outputPadding = (intsAttr(node.attrs, "output_padding") ?? kernel.map(() => 0)).map((given, axis) => {
    // A result longer than what the data reaches ends in positions that only the bias fills.
    const [size, want] = [input[axis], wanted?.[axis]];
    if (want === undefined || typeof size !== "number") return given;
    const reach = at(strides, axis) * (size - 1) + given + extent(kernel, dilations, axis);
    return given + Math.max(0, want - reach);
  });
  const grown = (axis: number) => at(outputPadding, axis) + extent(kernel, dilations, axis);
  const mode = stringAttr(node.attrs, "auto_pad", "NOTSET");
  const fixed = wanted ? { ...node, attrs: { ...node.attrs, auto_pad: { s: upperOrLower(mode) } } } : node;
  const { before, after } = autoPads(fixed, base, (axis) => {
    const size = staticDim(node, input[axis]);
    return at(strides, axis) * (size - 1) + grown(axis) - (wanted?.[axis] ?? size * at(strides, axis));
  });
  const output = input.map((dim, axis): Dim => {
    const stride = at(strides, axis);
    const spread = typeof dim === "number" ? (dim - 1) * stride : `(${dim}-1)*${stride}`;
    return dimSub(dimAdd(spread, grown(axis)), at(before, axis) + at(after, axis));
  });
  return { ...base, before, after, output, outputPadding };
}

const upperOrLower = (mode: string) => (mode === "SAME_UPPER" ? "SAME_UPPER" : "SAME_LOWER");
const at = (list: readonly number[], axis: number): number => list[axis] ?? 0;
const extent = (kernel: readonly number[], dilations: readonly number[], axis: number) =>
  (at(kernel, axis) - 1) * at(dilations, axis) + 1;

function readWindow(
  node: WindowNode,
): Omit<Window, "before" | "after" | "output"> & { readonly input: Shape } {
  const input = node.inputs[0]?.shape.slice(2) ?? [];
  const weight = /Conv/.test(node.op) ? node.inputs[1]?.shape.slice(2) : undefined;
  const kernel = intsAttr(node.attrs, "kernel_shape") ?? weight;
  if (!kernel || kernel.length !== input.length || !kernel.every((size) => typeof size === "number")) {
    throw new TunesmithError(
      "graph-invalid",
      `${describe(node)}: the kernel shape is not known or does not fit`,
      {
        fix: `give kernel_shape with ${input.length} numbers`,
      },
    );
  }
  const ones = kernel.map(() => 1);
  return {
    input,
    kernel: kernel as readonly number[],
    strides: intsAttr(node.attrs, "strides") ?? ones,
    dilations: intsAttr(node.attrs, "dilations") ?? ones,
    group: intAttr(node.attrs, "group", 1),
  };
}

function autoPads(
  node: WindowNode,
  window: { readonly kernel: readonly number[] },
  needed: (axis: number) => number,
): { before: number[]; after: number[] } {
  const rank = window.kernel.length;
  const mode = stringAttr(node.attrs, "auto_pad", "NOTSET");
  if (mode === "NOTSET") {
    const pads = intsAttr(node.attrs, "pads") ?? Array<number>(rank * 2).fill(0);
    return { before: pads.slice(0, rank), after: pads.slice(rank) };
  }
  if (mode === "VALID") return { before: Array<number>(rank).fill(0), after: Array<number>(rank).fill(0) };
  const totals = Array.from({ length: rank }, (_, axis) => Math.max(0, needed(axis)));
  const small = totals.map((total) => Math.floor(total / 2));
  const large = totals.map((total) => Math.ceil(total / 2));
  return mode === "SAME_UPPER" ? { before: small, after: large } : { before: large, after: small };
}

function staticDim(node: WindowNode, dim: Dim | undefined): number {
  if (typeof dim === "number") return dim;
  throw new TunesmithError(
    "graph-invalid",
    `${describe(node)}: auto_pad needs a static spatial length, got '${dim}'`,
    {
      fix: "bind the graph's symbolic dimensions with specialise() first",
    },
  );
}
