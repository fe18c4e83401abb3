import { TunesmithError } from "../../errors/index.js";
import { type Dtype, tensor } from "../../tensor/index.js";
import { constant, describe } from "../create.js";
import { staticShape } from "../dims.js";
import { cast } from "../ops/index.js";
import type { Node, Shape, Value } from "../types.js";

/** A floating-point constant of any float dtype. */
export function floats(shape: readonly number[], values: readonly number[], dtype: Dtype): Value {
  if (dtype === "float64" || dtype === "float32") return constant(tensor(dtype, shape, values));
  return cast(constant(tensor("float32", shape, values)), dtype);
}

/** Axes `from, from+1, ..., to-1`. */
export const axesFrom = (from: number, to: number): number[] =>
  Array.from({ length: Math.max(0, to - from) }, (_, i) => from + i);

/** A per-channel vector as `[C, 1, 1, ...]` against `[N, C, ...]`. */
export const perChannel = (rank: number): Shape => [-1, ...Array<number>(Math.max(0, rank - 2)).fill(1)];

/** Lengths of the listed axes; throws `graph-invalid` naming the node when one is symbolic. */
export function staticLengths(node: Node, shape: Shape, what: string): number[] {
  const known = staticShape(shape);
  if (known) return known;
  throw new TunesmithError("graph-invalid", `${describe(node)}: ${what} must be static, got [${shape}]`, {
    fix: "bind the graph's symbolic dimensions with specialise() first",
  });
}

/** The node uses an attribute value for which there is no decomposition. */
export function unsupported(node: Node, attribute: string, value: unknown, fix?: string): TunesmithError {
  return new TunesmithError(
    "attribute-unsupported",
    `${describe(node)}: ${attribute}=${value} is not supported`,
    {
      ...(fix ? { fix } : {}),
      details: { op: node.op, attribute, value },
    },
  );
}

/** Throws `attribute-unsupported` for the first of these optional inputs that is given. */
export function refuse(node: Node, optional: Readonly<Record<string, Value | undefined>>): void {
  for (const [name, value] of Object.entries(optional)) if (value) throw unsupported(node, name, "given");
}
