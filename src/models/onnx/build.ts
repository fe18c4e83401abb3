import { TunesmithError } from "../../errors/index.js";
import {
  type Dim,
  dimMul,
  type Graph,
  ops,
  rewriteValues,
  specialise,
  type Value,
} from "../../graph/index.js";
import type { KeyValue, LmInputs, LmOutputs } from "../types.js";
import { tokenAxes } from "../types.js";
import { residualPoints, throughMatrices } from "./cut-points.js";
import { findHead } from "./head.js";
import { type CacheSlot, type Signature, unsupported } from "./signature.js";

/** An imported graph with what is known about it. */
export interface OnnxSource {
  readonly path: string;
  readonly graph: Graph;
  readonly signature: Signature;
  /** The attention mask takes segment numbers, which keeps packed documents apart. */
  readonly segmentMask: boolean;
  /** Keys and values may be given and taken. */
  readonly cached: boolean;
}

/** Lays the imported graph over given inputs. */
export function buildOnnx(source: OnnxSource, inputs: LmInputs): LmOutputs {
  const { signature, path } = source;
  const { batch, length } = tokenAxes(inputs);
  const past: Dim = inputs.past ? (inputs.past.positions.shape[1] as Dim) : 0;
  const graph = bindAxes(source, batch, length, past);
  const named = new Map(graph.inputs.map((value) => [String(value.name), value] as const));
  const replace = new Map<Value, Value>();
  for (const [name, value] of valuesOf(source, named, inputs)) replace.set(named.get(name) as Value, value);
  const place = rewriteValues(graph.outputs.values(), { replace, visit: withoutEmptyOperands });
  const output = (name: string) => place(graph.outputs.get(name) as Value);
  const logits = output(signature.logits);
  const head = findHead(logits);
  if (!head) throw unsupported(path, "its logits are not a product with an output matrix", source.graph);
  const width = head.hidden.shape.at(-1);
  if (
    typeof width !== "number" ||
    (head.hidden.shape.length === 3 && head.hidden.shape[1] === 1 && length !== 1)
  ) {
    throw unsupported(path, "it gives the logits of the last token only", source.graph);
  }
  const tokens = dimMul(batch, length);
  const cached = source.cached || inputs.past?.exact === true;
  const keys = cached ? signature.caches.map((slot) => cacheOf(slot, output)) : [];
  const points = residualPoints(head.hidden, inputs.ids, tokens);
  const all = [head.hidden, ...keys.flatMap(({ key, value }) => [key, value])];
  const { get, boundaries } = throughMatrices(all, points, tokens, inputs.ids);
  const hidden = ops.reshape(get(head.hidden), [tokens, width], [inputs.ids]);
  const present = keys.map(({ key, value }) => ({ key: get(key), value: get(value) }));
  return { hidden, logits: head.apply(hidden), boundaries, present };
}

/** Gives the graph's own axes the lengths of the inputs, where those are numbers. */
function bindAxes({ graph, signature, path }: OnnxSource, batch: Dim, length: Dim, past: Dim): Graph {
  const shapes = new Map(graph.inputs.map((value) => [String(value.name), value.shape] as const));
  const bindings: Record<string, number> = {};
  const bind = (own: Dim | undefined, given: Dim, what: string) => {
    if (own === undefined || own === given) return;
    if (typeof own === "number") {
      throw new TunesmithError(
        "shape-mismatch",
        `${path} was exported for a ${what} of ${own}; ${given} was asked for`,
        {
          fix: `use a ${what} of ${own}, or export it with dynamic axes`,
          details: { own, given },
        },
      );
    }
    if (typeof given === "number" && /^[\w.]+$/.test(own)) bindings[own] = given;
  };
  const ids = shapes.get(signature.ids);
  bind(ids?.[0], batch, "batch");
  bind(ids?.[1], length, "length");
  for (const slot of signature.caches) {
    const shape = shapes
      .get(slot.kind === "split" ? slot.past[0] : slot.past)
      ?.slice(slot.kind === "split" ? 0 : 1);
    bind(shape?.[0], batch, "batch");
    bind(shape?.[2], past, "past length");
  }
  const mask = signature.mask === undefined ? undefined : shapes.get(signature.mask);
  if (typeof length === "number" && typeof past === "number") bind(mask?.[1], length + past, "mask length");
  return specialise(graph, bindings);
}

/** What each of the graph's inputs is, in terms of the model's. */
function* valuesOf(
  { signature, segmentMask }: OnnxSource,
  named: ReadonlyMap<string, Value>,
  inputs: LmInputs,
): Generator<[string, Value]> {
  const dtypeOf = (name: string) => (named.get(name) as Value).dtype;
  const { ids, mask, positions, caches } = signature;
  yield [ids, ops.cast(inputs.ids, dtypeOf(ids))];
  if (positions !== undefined) yield [positions, ops.cast(inputs.positions, dtypeOf(positions))];
  if (mask !== undefined) {
    const segments = inputs.past ? ops.concat([inputs.past.segments, inputs.segments], 1) : inputs.segments;
    yield [mask, ops.cast(segmentMask ? segments : ops.greater(segments, 0), dtypeOf(mask))];
  }
  for (const [layer, slot] of caches.entries()) {
    const given = inputs.past?.layers[layer];
    const names = slot.kind === "split" ? slot.past : [slot.past];
    if (!given) {
      for (const name of names) yield [name, emptyPast(named.get(name) as Value, inputs, slot)];
    } else if (slot.kind === "split") {
      yield [slot.past[0], given.key];
      yield [slot.past[1], given.value];
    } else {
      yield [slot.past, ops.concat([ops.unsqueeze(given.key, 0), ops.unsqueeze(given.value, 0)], 0)];
    }
  }
}

/** A cache of no columns. */
function emptyPast(own: Value, inputs: LmInputs, slot: CacheSlot): Value {
  const lead = slot.kind === "packed" ? [2] : [];
  const [, heads, , dim] = own.shape.slice(lead.length);
  const { batch } = tokenAxes(inputs);
  return ops.full([...lead, batch, heads as Dim, 0, dim as Dim], 0, own.dtype, [inputs.ids]);
}

/** A concatenation with something empty is the rest: neither kernels nor gradients then meet empty tensors. */
function withoutEmptyOperands(
  node: { readonly op: string; readonly domain: string; readonly attrs: Readonly<Record<string, unknown>> },
  inputs: readonly (Value | undefined)[],
): readonly Value[] | undefined {
  if (node.op !== "Concat" || node.domain !== "") return undefined;
  const attr = node.attrs.axis as { readonly i: number | bigint } | undefined;
  const rank = inputs[0]?.shape.length ?? 0;
  const axis = Number(attr?.i ?? 0);
  const at = axis < 0 ? axis + rank : axis;
  const full = inputs.filter((value): value is Value => value !== undefined && value.shape[at] !== 0);
  return full.length > 0 && full.length < inputs.length ? [ops.concat(full, at)] : undefined;
}

function cacheOf(slot: CacheSlot, output: (name: string) => Value): KeyValue {
  if (slot.kind === "split") return { key: output(slot.present[0]), value: output(slot.present[1]) };
  const both = output(slot.present);
  const part = (at: number) => ops.squeeze(ops.slice(both, 0, at, at + 1), 0);
  return { key: part(0), value: part(1) };
}
