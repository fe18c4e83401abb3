import { TunesmithError } from "../../errors/index.js";
import type { Dtype } from "../../tensor/index.js";
import { normalAxis } from "../dims.js";
import type { Attrs, Shape, Value } from "../types.js";

export interface OutputSpec {
  readonly dtype: Dtype;
  readonly shape: Shape;
}

export interface InferContext {
  readonly op: string;
  readonly domain: string;
  readonly inputs: readonly (Value | undefined)[];
  readonly attrs: Attrs;
  readonly scope: string;
  /** Number of outputs asked for, when the caller knows. */
  readonly outputs: number | undefined;
}

export type InferRule = (context: InferContext) => readonly OutputSpec[];

export const where = (context: InferContext): string =>
  `${context.domain ? `${context.domain}.` : ""}${context.op}${context.scope ? ` in ${context.scope}` : ""}`;

/** The required input `index`. */
export function need(context: InferContext, index: number): Value {
  const value = context.inputs[index];
  if (!value) throw new TunesmithError("graph-invalid", `${where(context)}: input ${index} is missing`);
  return value;
}

export function intAttr(attrs: Attrs, name: string, fallback: number): number {
  const attr = attrs[name];
  return attr && "i" in attr ? Number(attr.i) : fallback;
}

export function floatAttr(attrs: Attrs, name: string, fallback: number): number {
  const attr = attrs[name];
  return attr && "f" in attr ? attr.f : fallback;
}

export function stringAttr(attrs: Attrs, name: string, fallback: string): string {
  const attr = attrs[name];
  return attr && "s" in attr ? attr.s : fallback;
}

export function intsAttr(attrs: Attrs, name: string): number[] | undefined {
  const attr = attrs[name];
  return attr && "ints" in attr ? attr.ints.map(Number) : undefined;
}

export const axisAttr = (context: InferContext, name: string, fallback: number, rank: number): number =>
  normalAxis(intAttr(context.attrs, name, fallback), rank, where(context));

export const like = (value: Value, shape: Shape = value.shape): OutputSpec => ({ dtype: value.dtype, shape });

export function mismatch(context: InferContext, why: string): TunesmithError {
  const shapes = context.inputs
    .map((value) => (value ? `${value.dtype}[${value.shape.join(", ")}]` : "-"))
    .join(", ");
  return new TunesmithError("shape-mismatch", `${where(context)}: ${why} (inputs ${shapes})`);
}
