import { TunesmithError } from "../../errors/index.js";
import { tensor } from "../../tensor/index.js";
import { constant } from "../create.js";
import type { Attr, Attrs, Value } from "../types.js";

/** An operator about to be created. */
export interface OpCall {
  readonly op: string;
  readonly inputs: readonly (Value | undefined)[];
  readonly attrs: Attrs;
  readonly outputs: number;
}

/** A call in newer form, or the outputs when it became several nodes. */
export type Upgraded = OpCall | readonly (Value | undefined)[];

/** One change between two versions of an operator. */
export type Rule = (call: OpCall, version: number) => Upgraded;

/** An integer attribute. */
export const intOf = (attr: Attr | undefined, fallback: number) =>
  attr && "i" in attr ? Number(attr.i) : fallback;
/** An int-list attribute. */
export const intsOf = (attr: Attr | undefined) =>
  attr && "ints" in attr ? attr.ints.map(Number) : undefined;
/** A float attribute. */
export const floatOf = (attr: Attr | undefined, fallback: number) =>
  attr && "f" in attr ? attr.f : fallback;

/** An int-list attribute as a tensor, exactly: slice ends are often 2^63 - 1, which a number rounds up. */
export function listOf(attr: Attr | undefined): Value | undefined {
  if (!attr || !("ints" in attr)) return undefined;
  return constant(tensor("int64", [attr.ints.length], BigInt64Array.from(attr.ints, BigInt)));
}

/** Attributes without some. */
export function without(attrs: Attrs, ...names: string[]): Attrs {
  return Object.fromEntries(Object.entries(attrs).filter(([name]) => !names.includes(name)));
}

/** A mandatory input. */
export function operand(call: OpCall, index: number): Value {
  const value = call.inputs[index];
  if (value) return value;
  throw new TunesmithError("graph-invalid", `${call.op}: input ${index} is missing`);
}

/** The error for a form that has no equivalent any more. */
export const unsupported = (call: OpCall, what: string) =>
  new TunesmithError("attribute-unsupported", `${call.op}: ${what} of an old operator set`, {
    fix: "export the model again with a current exporter",
  });
