import { TunesmithError } from "../errors/index.js";
import type { Dim, Shape } from "./types.js";

const wrap = (dim: Dim) => (typeof dim === "string" && /[-+*/ ]/.test(dim) ? `(${dim})` : String(dim));

function combine(op: "+" | "-" | "*" | "/", a: Dim, b: Dim, numeric: (x: number, y: number) => number): Dim {
  if (typeof a === "number" && typeof b === "number") return numeric(a, b);
  return `${wrap(a)}${op}${wrap(b)}`;
}

/** Symbolic arithmetic on dimensions: numbers are computed, anything else becomes an expression string. */
export const dimAdd = (a: Dim, b: Dim): Dim =>
  b === 0 ? a : a === 0 ? b : combine("+", a, b, (x, y) => x + y);
/** a − b; see `dimAdd`. */
export const dimSub = (a: Dim, b: Dim): Dim =>
  b === 0 ? a : a === b ? 0 : combine("-", a, b, (x, y) => x - y);
/** a · b; see `dimAdd`. */
export const dimMul = (a: Dim, b: Dim): Dim => {
  if (a === 1) return b;
  if (b === 1) return a;
  if (a === 0 || b === 0) return 0;
  return combine("*", a, b, (x, y) => x * y);
};
/** a / b, rounded down; see `dimAdd`. */
export const dimDiv = (a: Dim, b: Dim): Dim =>
  b === 1 ? a : combine("/", a, b, (x, y) => Math.floor(x / y));

/** Product of all axes. */
export const dimProduct = (shape: Shape): Dim => shape.reduce<Dim>((acc, dim) => dimMul(acc, dim), 1);

/** The axes as numbers, or undefined when one is symbolic. */
export function staticShape(shape: Shape): number[] | undefined {
  return shape.every((dim) => typeof dim === "number") ? (shape as number[]).slice() : undefined;
}

/** Whether two shapes are equal, symbolic axes by their names. */
export const sameShape = (a: Shape, b: Shape): boolean =>
  a.length === b.length && a.every((dim, axis) => dim === b[axis]);

/** `[2, batch, 8]`, for messages. */
export const showShape = (shape: Shape): string => `[${shape.join(", ")}]`;

/** Axis in `[0, rank)`; negative axes count from the end. */
export function normalAxis(axis: number, rank: number, what: string): number {
  const normal = axis < 0 ? axis + rank : axis;
  if (!Number.isInteger(normal) || normal < 0 || normal >= Math.max(rank, 1)) {
    throw new TunesmithError("shape-mismatch", `${what}: axis ${axis} is out of range for rank ${rank}`);
  }
  return normal;
}

/** Multidirectional broadcast of ONNX; a symbolic axis against a number > 1 takes the number. */
export function broadcastShapes(a: Shape, b: Shape, what: string): Shape {
  const rank = Math.max(a.length, b.length);
  return Array.from({ length: rank }, (_, axis) => {
    const x = a[axis - (rank - a.length)] ?? 1;
    const y = b[axis - (rank - b.length)] ?? 1;
    if (x === y || y === 1) return x;
    if (x === 1) return y;
    if (typeof x === "number" && typeof y === "number") {
      throw new TunesmithError(
        "shape-mismatch",
        `${what}: cannot broadcast ${showShape(a)} with ${showShape(b)}`,
      );
    }
    return typeof x === "number" ? x : y;
  });
}

/** Axes of `from` (aligned right) that a broadcast to `to` stretched; undefined when a symbolic axis leaves it open. */
export function stretchedAxes(from: Shape, to: Shape): { leading: number; axes: number[] } | undefined {
  const leading = to.length - from.length;
  const axes: number[] = [];
  for (let axis = 0; axis < from.length; axis++) {
    const small = from[axis] as Dim;
    const large = to[axis + leading] as Dim;
    if (small === large) continue;
    if (small === 1) axes.push(axis + leading);
    else return undefined;
  }
  return { leading, axes };
}

/** Evaluates a dimension expression under bindings of its symbols; stays symbolic when one is unbound. */
export function bindDim(dim: Dim, bindings: Readonly<Record<string, number>>): Dim {
  if (typeof dim === "number") return dim;
  const bound = bindings[dim];
  if (bound !== undefined) return bound;
  const tokens = dim.match(/[()+\-*/]|[^()+\-*/]+/g) ?? [];
  let at = 0;
  const atom = (): number => {
    const token = tokens[at++];
    if (token === "(") {
      const inner = sum();
      at++;
      return inner;
    }
    const text = (token ?? "").trim();
    return bindings[text] ?? (/^\d+$/.test(text) ? Number(text) : Number.NaN);
  };
  const product = (): number => {
    let left = atom();
    while (tokens[at] === "*" || tokens[at] === "/")
      left = tokens[at++] === "*" ? left * atom() : Math.floor(left / atom());
    return left;
  };
  const sum = (): number => {
    let left = product();
    while (tokens[at] === "+" || tokens[at] === "-")
      left = tokens[at++] === "+" ? left + product() : left - product();
    return left;
  };
  const result = sum();
  return Number.isNaN(result) ? dim : result;
}

/** The symbols a dimension is made of; none for a number. */
export function symbolsOf(dim: Dim): string[] {
  if (typeof dim === "number") return [];
  return dim.split(/[()+\-*/,\s]+/).filter((atom) => atom !== "" && !/^\d+$/.test(atom));
}
