import { elementCount, tensor } from "../../tensor/index.js";
import { constant } from "../create.js";
import { sameShape, staticShape } from "../dims.js";
import { intAttr, intsAttr } from "../infer/types.js";
import { numbersOf } from "../ints.js";
import * as ops from "../ops/index.js";
import { rewriteValues } from "../rewrite.js";
import type { Graph, Node, Shape, Value } from "../types.js";
import { unsupported } from "./helpers.js";
import type { Decomposition, DecompositionTable } from "./types.js";

type Inputs = readonly (Value | undefined)[];

/** Why a control-flow node cannot be written without one. */
export interface Obstacle {
  readonly what: string;
  readonly value: unknown;
  readonly fix: string;
}

/** Loops of more rounds than this stay loops. */
export const MAX_ROUNDS = 256;

function body(node: Node, name: string): Graph {
  const attr = node.attrs[name];
  if (attr && "g" in attr) return attr.g;
  throw unsupported(node, name, "missing");
}

const outputsOf = (graph: Graph): readonly Value[] => [...graph.outputs.values()];

/** The branch that an If takes, when its condition does not depend on any feed. */
function chosen(node: Node, [condition]: Inputs): readonly Value[] | undefined {
  const known = numbersOf(condition)?.[0];
  return known === undefined ? undefined : outputsOf(body(node, known === 0 ? "else_branch" : "then_branch"));
}

/** Both branches, of which the condition picks one. */
function eitherBranch(node: Node, [condition]: Inputs): readonly Value[] | Obstacle {
  const [yes, no] = [outputsOf(body(node, "then_branch")), outputsOf(body(node, "else_branch"))];
  const differs = yes.findIndex((value, at) => !sameShape(value.shape, no[at]?.shape ?? []));
  if (differs >= 0) {
    const shapes = [yes, no].map((list) => `[${list[differs]?.shape}]`).join(" or ");
    return {
      what: `shape of output ${differs}`,
      value: `${shapes} by a condition that is only known at run time`,
      fix: "bind the input that decides with bindInputs(), or the axes with specialise()",
    };
  }
  const flag = ops.reshape(ops.cast(condition as Value, "bool"), []);
  return yes.map((value, at) => ops.where(flag, value, no[at] as Value));
}

/** A scalar of the type and shape a body's input has. */
const scalarFor = (input: Value, value: number): Value => {
  const shape = staticShape(input.shape) ?? [];
  return constant(tensor(input.dtype, elementCount(shape) === 1 ? shape : [], [value]));
};

/** One round: the body's results over given inputs. */
function round(graph: Graph, inputs: readonly Value[]): readonly Value[] {
  const captured = (graph.captures ?? []).map((value) => [value, value] as const);
  const given = graph.inputs.map((value, at) => [value, inputs[at] as Value] as const);
  return outputsOf(graph).map(
    rewriteValues(graph.outputs.values(), { replace: new Map([...captured, ...given]) }),
  );
}

/** Results of all rounds along an axis; no round gives an axis of length 0. */
function stacked(values: readonly Value[], like: Value, axis: number): Value | undefined {
  if (values.length > 0)
    return ops.concat(
      values.map((value) => ops.unsqueeze(value, axis)),
      axis,
    );
  const shape: Shape = [...like.shape.slice(0, axis), 0, ...like.shape.slice(axis)];
  return staticShape(shape) ? ops.full(shape, 0, like.dtype) : undefined;
}

const tooLong = (rounds: number, limit: number): Obstacle => ({
  what: "number of rounds",
  value: rounds,
  fix: `at most ${limit} rounds are unrolled; use shorter inputs, or keep trained weights out of the loop`,
});

function unrolledLoop(node: Node, inputs: Inputs, limit: number): readonly (Value | undefined)[] | Obstacle {
  const graph = body(node, "body");
  const [count, start, ...initial] = inputs as [Value | undefined, Value | undefined, ...Value[]];
  const dataDependent = (what: string): Obstacle => ({
    what,
    value: "known at run time only",
    fix: "bind the graph's axes with specialise(), or what decides with bindInputs()",
  });
  const trips = count ? numbersOf(count)?.[0] : Number.POSITIVE_INFINITY;
  if (trips === undefined) return dataDependent("number of rounds");
  let going = start ? numbersOf(start)?.[0] : 1;
  let carried: readonly Value[] = initial;
  const collected = outputsOf(graph)
    .slice(1 + initial.length)
    .map((): Value[] => []);
  for (let at = 0; at < trips && going !== 0; at++) {
    if (going === undefined) return dataDependent("condition");
    if (at >= limit) return tooLong(trips, limit);
    const fixed = graph.inputs.slice(0, 2).map((value, index) => scalarFor(value, index === 0 ? at : 1));
    const [next, ...results] = round(graph, [...fixed, ...carried]);
    carried = results.slice(0, initial.length);
    for (const [index, list] of collected.entries()) list.push(results[initial.length + index] as Value);
    going = numbersOf(next)?.[0];
  }
  const like = outputsOf(graph).slice(1 + initial.length);
  return [...carried, ...collected.map((list, at) => stacked(list, like[at] as Value, 0))];
}

function unrolledScan(node: Node, inputs: Inputs, limit: number): readonly (Value | undefined)[] | Obstacle {
  const graph = body(node, "body");
  const scanned = intAttr(node.attrs, "num_scan_inputs", 1);
  const states = inputs.length - scanned;
  const sequences = inputs.slice(states) as readonly Value[];
  const option = (name: string, at: number) => intsAttr(node.attrs, name)?.[at] ?? 0;
  const axes = sequences.map((x, at) => {
    const raw = option("scan_input_axes", at);
    return raw < 0 ? raw + x.shape.length : raw;
  });
  const length = sequences[0]?.shape[axes[0] ?? 0];
  if (typeof length !== "number")
    return { what: "length", value: length, fix: "bind the graph's axes with specialise()" };
  if (length > limit) return tooLong(length, limit);
  let carried = inputs.slice(0, states) as readonly Value[];
  const results = outputsOf(graph).slice(states);
  const collected = results.map((): Value[] => []);
  for (let at = 0; at < length; at++) {
    const pieces = sequences.map((x, index) => {
      const from = option("scan_input_directions", index) === 1 ? length - 1 - at : at;
      return ops.gather(x, ops.scalar(from, "int64"), axes[index]);
    });
    const next = round(graph, [...carried, ...pieces]);
    carried = next.slice(0, states);
    for (const [index, list] of collected.entries()) {
      const value = next[states + index] as Value;
      if (option("scan_output_directions", index) === 1) list.unshift(value);
      else list.push(value);
    }
  }
  const stacks = results.map((value, at) => {
    const raw = option("scan_output_axes", at);
    return stacked(collected[at] as Value[], value, raw < 0 ? raw + value.shape.length + 1 : raw);
  });
  return [...carried, ...stacks];
}

const isObstacle = (result: readonly (Value | undefined)[] | Obstacle): result is Obstacle =>
  "what" in result;

/** What an If, Loop or Scan comes to when nothing about its course depends on a feed; undefined when something does. */
export function withoutControl(
  node: Node,
  inputs: Inputs,
  limit = MAX_ROUNDS,
): readonly (Value | undefined)[] | undefined {
  if (node.domain !== "") return undefined;
  if (node.op === "If") return chosen(node, inputs);
  const unroll = { Loop: unrolledLoop, Scan: unrolledScan }[node.op];
  const result = unroll?.(node, inputs, limit);
  return result && !isObstacle(result) ? result : undefined;
}

const orRefuse =
  (write: (node: Node, inputs: Inputs) => readonly (Value | undefined)[] | Obstacle): Decomposition =>
  (inputs, node) => {
    const result = write(node, inputs);
    if (!isObstacle(result)) return result;
    throw unsupported(node, result.what, result.value, result.fix);
  };

export const controls: DecompositionTable = {
  If: orRefuse((node, inputs) => chosen(node, inputs) ?? eitherBranch(node, inputs)),
  Loop: orRefuse((node, inputs) => unrolledLoop(node, inputs, MAX_ROUNDS)),
  Scan: orRefuse((node, inputs) => unrolledScan(node, inputs, MAX_ROUNDS)),
};
