import { TunesmithError } from "../../errors/index.js";
import type { OptimizerState, Params, Shapes } from "./types.js";

/** An optimiser state as two flat tables, the form it takes in a checkpoint. */
export interface FlatOptimizerState {
  /** Keys are `slot/parameter`, with a `chain` index before each level, as in `1/mu/layer.lora_A`. */
  readonly tensors: ReadonlyMap<string, Float32Array>;
  readonly scalars: Readonly<Record<string, number>>;
  /** 8-bit slots, under the same keys. */
  readonly bytes?: ReadonlyMap<string, Uint8Array>;
}

/** A state with the given slots, each holding one zero-filled array per parameter. */
export function createState(
  params: Params,
  slots: readonly string[] = [],
  scalars: Record<string, number> = {},
): OptimizerState {
  const zeros = (): Params =>
    new Map([...params].map(([name, data]) => [name, new Float32Array(data.length)]));
  return {
    slots: Object.fromEntries(slots.map((slot) => [slot, zeros()])),
    scalars: { ...scalars },
    inner: [],
  };
}

/**
 * A slot with every parameter's shape (`[1]` for a scalar), so that updates depend on nothing but their state.
 *
 * @throws `config-invalid` when `shapes` lacks a parameter, `shape-mismatch` when one does not fit its data.
 */
export function shapeSlot(what: string, params: Params, shapes: Shapes | undefined): Params {
  return new Map(
    [...params].map(([name, data]) => {
      const shape = shapes?.get(name);
      if (!shape) {
        throw new TunesmithError("config-invalid", `${what} needs the shape of parameter '${name}'`, {
          fix: "pass the parameters' shapes: optimizer.init(params, shapes)",
          details: { name },
        });
      }
      const size = shape.reduce((product, length) => product * length, 1);
      if (size !== data.length) throw lengthMismatch(`parameter '${name}'`, data.length, size);
      return [name, Float32Array.from(shape.length > 0 ? shape : [1])];
    }),
  );
}

/** The shape that `shapeSlot` stored. */
export function shapeOfParameter(state: OptimizerState, name: string): readonly number[] {
  const shape = state.slots.shape?.get(name);
  if (!shape) throw missingSlot("shape", name);
  return [...shape];
}

/** The array of `slot` that belongs to a parameter, with its length checked against the parameter's. */
export function slotOf(state: OptimizerState, slot: string, name: string, length: number): Float32Array {
  const data = state.slots[slot]?.get(name);
  if (!data) throw missingSlot(slot, name);
  if (data.length !== length)
    throw lengthMismatch(`optimiser state '${slot}' of '${name}'`, data.length, length);
  return data;
}

const missingSlot = (slot: string, name: string): TunesmithError =>
  new TunesmithError("tensor-not-found", `the optimiser state has no '${slot}' for parameter '${name}'`, {
    fix: "call optimizer.init(params) again after adding parameters",
    details: { slot, name },
  });

/** Slots that remember past gradients. */
const MOMENTS = ["mu", "nu", "nuMax", "mean", "trace", "momentum"];

/**
 * Sets the moments of a parameter, or of some of its entries, to zero: for numbers that were replaced. Slots of another shape
 * (factored, 8-bit) and averages of weights are left alone.
 */
export function forgetMoments(state: OptimizerState, name: string, entries?: Iterable<number>): void {
  const chosen = entries && [...entries];
  visit(state, "", (_, { slots }) => {
    for (const slot of MOMENTS) {
      const data = slots[slot]?.get(name);
      if (!chosen) data?.fill(0);
      else for (const at of chosen) if (data && at < data.length) data[at] = 0;
    }
  });
}

/** The value of a scalar of the state. */
export function scalarOfState(state: OptimizerState, key: string): number {
  const value = state.scalars[key];
  if (value === undefined) throw missingSlot(key, "(scalar)");
  return value;
}

/** The parameter a gradient belongs to, with the lengths checked. */
export function parameterOf(params: Params, name: string, length: number): Float32Array {
  const data = params.get(name);
  if (!data) {
    throw new TunesmithError("tensor-not-found", `gradient '${name}' belongs to no parameter`, {
      fix: "pass the gradients of the trainable parameters only, under the same names",
      details: { name },
    });
  }
  if (data.length !== length) throw lengthMismatch(`gradient of '${name}'`, length, data.length);
  return data;
}

function lengthMismatch(what: string, found: number, expected: number): TunesmithError {
  return new TunesmithError("shape-mismatch", `${what} has ${found} values, expected ${expected}`, {
    fix: "make parameters, gradients and optimiser state come from the same model",
    details: { found, expected },
  });
}

/**
 * Flattens an optimiser state for storage. The arrays are the live ones, not copies.
 *
 * @example
 * ```ts
 * import { adamw, flattenOptimizerState } from "tunesmith/training";
 * const params = new Map([["w", new Float32Array(3)]]);
 * const state = adamw({ lr: 1e-3 }).init(params);
 * console.log([...flattenOptimizerState(state).tensors.keys()]);
 * ```
 */
export function flattenOptimizerState(state: OptimizerState): FlatOptimizerState {
  const tensors = new Map<string, Float32Array>();
  const scalars: Record<string, number> = {};
  const bytes = new Map<string, Uint8Array>();
  visit(state, "", (prefix, part) => {
    for (const [slot, values] of Object.entries(part.slots)) {
      for (const [name, data] of values) tensors.set(`${prefix}${slot}/${name}`, data);
    }
    for (const [slot, values] of Object.entries(part.bytes ?? {})) {
      for (const [name, data] of values) bytes.set(`${prefix}${slot}/${name}`, data);
    }
    for (const [key, value] of Object.entries(part.scalars)) scalars[prefix + key] = value;
  });
  return bytes.size > 0 ? { tensors, scalars, bytes } : { tensors, scalars };
}

/**
 * Copies a stored state into a freshly initialised one, bit for bit.
 *
 * @throws `checkpoint-mismatch` when the stored entries are not exactly those of `state` (other optimiser, other
 *   parameters, other sizes), naming them. Nothing is written in that case.
 */
export function restoreOptimizerState(state: OptimizerState, stored: FlatOptimizerState): void {
  const live = flattenOptimizerState(state);
  const problems = tensorDifferences(live.tensors, stored.tensors);
  problems.push(...tensorDifferences(live.bytes ?? new Map(), stored.bytes ?? new Map()));
  for (const key of Object.keys(live.scalars))
    if (!(key in stored.scalars)) problems.push(`missing scalar '${key}'`);
  for (const key of Object.keys(stored.scalars)) {
    if (!(key in live.scalars)) problems.push(`unexpected scalar '${key}'`);
  }
  if (problems.length > 0) throw stateMismatch("optimiser state", problems);
  for (const [key, data] of live.tensors) copyBits(data, stored.tensors.get(key));
  for (const [key, data] of live.bytes ?? []) data.set(stored.bytes?.get(key) ?? []);
  visit(state, "", (prefix, part) => {
    for (const key of Object.keys(part.scalars))
      part.scalars[key] = stored.scalars[prefix + key] ?? Number.NaN;
  });
}

/**
 * Copies stored parameters into the live ones, bit for bit.
 *
 * @throws `checkpoint-mismatch` when names or sizes differ, naming them. Nothing is written in that case.
 */
export function restoreParams(params: Params, stored: Params): void {
  const problems = tensorDifferences(params, stored);
  if (problems.length > 0) throw stateMismatch("parameters", problems);
  for (const [name, data] of params) copyBits(data, stored.get(name));
}

/** A deep copy of named arrays. */
export function copyParams(params: Params): Map<string, Float32Array> {
  return new Map([...params].map(([name, data]) => [name, data.slice()]));
}

/** Byte copies, since moving a float through a register may quieten a NaN and change its bits. */
function copyBits(to: Float32Array, from: Float32Array | undefined): void {
  if (from) bytesOf(to).set(bytesOf(from));
}

function bytesOf(data: Float32Array): Uint8Array {
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}

function visit(
  state: OptimizerState,
  prefix: string,
  each: (prefix: string, part: OptimizerState) => void,
): void {
  each(prefix, state);
  state.inner.forEach((part, index) => {
    visit(part, `${prefix}${index}/`, each);
  });
}

type Arrays = ReadonlyMap<string, { readonly length: number }>;

function tensorDifferences(live: Arrays, stored: Arrays): string[] {
  const problems: string[] = [];
  for (const [name, data] of live) {
    const other = stored.get(name);
    if (!other) problems.push(`missing '${name}'`);
    else if (other.length !== data.length) {
      problems.push(`'${name}' has ${other.length} values, expected ${data.length}`);
    }
  }
  for (const name of stored.keys()) if (!live.has(name)) problems.push(`unexpected '${name}'`);
  return problems;
}

function stateMismatch(what: string, problems: readonly string[]): TunesmithError {
  const shown = problems.slice(0, 5).join("; ");
  const rest = problems.length > 5 ? `; and ${problems.length - 5} more` : "";
  return new TunesmithError(
    "checkpoint-mismatch",
    `the stored ${what} do not fit this run: ${shown}${rest}`,
    {
      fix: "resume with the model, adapter and optimiser settings the checkpoint was written with",
      details: { problems },
    },
  );
}
