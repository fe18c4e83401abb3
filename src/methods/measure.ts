import { sha256 } from "#io";
import { TunesmithError } from "../errors/index.js";
import { makeGraph, ops, type Value } from "../graph/index.js";
import {
  type AnyModel,
  inputsOf,
  mainResult,
  type Parameters,
  parameterFeeds,
  probe,
} from "../models/index.js";
import { evaluate, type SessionOptions } from "../runtime/index.js";
import { bytesOf, maxAbsDiff, type Tensor, tensor } from "../tensor/index.js";
import type { Adapter } from "./adapter.js";
import type { TensorChange } from "./effective.js";

/** How far one tensor of the base moved. */
export interface TensorChangeNorm {
  /** Module path. */
  readonly path: string;
  /** `weight` or `bias`. */
  readonly tensor: string;
  /** Frobenius norm of the difference. */
  readonly changeNorm: number;
  /** The same over the norm of the base's tensor; null where the base has none, or zeros. */
  readonly relativeChange: number | null;
}

export interface Measured {
  readonly changes: readonly TensorChangeNorm[];
  /** Logits of each pass, or the first output of a model that has none. */
  readonly logits: Readonly<Record<string, Tensor>>;
}

interface MeasureInput {
  readonly changes: readonly TensorChange[];
  /** Models over one base whose logits are wanted. */
  readonly passes: Readonly<Record<string, AnyModel>>;
  readonly parameters: Parameters;
  /** Adapters whose strength counts as 1. */
  readonly fullStrength?: readonly Adapter[];
  /** What the row ends with, for adapters that wait for it. */
  readonly tail?: readonly number[];
  readonly session?: SessionOptions | undefined;
}

/** A graph that runs once: optimising it would cost more than it gives, and fold turned copies of the weights. */
const ONCE: SessionOptions = { optimization: "disabled" };

/** Runs the forward passes and the norms of all changes as one graph: weights are mapped once, never copied. */
export async function measure(input: MeasureInput): Promise<Measured> {
  const { changes, passes, parameters, fullStrength = [] } = input;
  const [first] = Object.values(passes) as [AnyModel];
  const { inputs, feeds: example } = probe(first, undefined, input.tail);
  const outputs: [string, Value][] = Object.entries(passes).map(([name, model]) => [
    name,
    mainResult(model.build(inputs)),
  ]);
  if (changes.length > 0) outputs.push(["norms", ops.concat(changes.flatMap(normsOf), 0)]);
  const graph = makeGraph("receipt", inputsOf(outputs.map(([, value]) => value)), outputs);
  const gates = Object.fromEntries(
    fullStrength
      .filter(({ gate }) => graph.inputs.includes(gate.value))
      .map(({ gate }) => [gate.name, tensor("float32", [], Float32Array.of(1))]),
  );
  const read = Object.entries(example).filter(([name]) => graph.inputs.some((value) => value.name === name));
  const feeds = { ...Object.fromEntries(read), ...parameterFeeds(graph, parameters), ...gates };
  const { norms, ...logits } = await evaluate(graph, feeds, { ...ONCE, ...input.session });
  return { changes: norms ? readNorms(changes, norms) : [], logits };
}

const normOf = (value: Value): Value => ops.reshape(ops.reduceL2(value, undefined, false), [1]);

/** ‖after − before‖ and ‖before‖. */
const normsOf = ({ before, difference }: TensorChange): Value[] => [
  normOf(difference),
  before ? normOf(before) : ops.full([1], 0, "float32"),
];

function readNorms(changes: readonly TensorChange[], norms: Tensor): TensorChangeNorm[] {
  const numbers = norms.data as Float32Array;
  return changes.map(({ path, leaf }, index) => {
    const [changeNorm, baseNorm] = [numbers[2 * index] as number, numbers[2 * index + 1] as number];
    if (!Number.isFinite(changeNorm)) {
      throw new TunesmithError("adapter-invalid", `the change of ${path}.${leaf} is ${changeNorm}`, {
        fix: "its tensors are finite but too large; the training that made it diverged",
        details: { path, tensor: leaf },
      });
    }
    return { path, tensor: leaf, changeNorm, relativeChange: baseNorm > 0 ? changeNorm / baseNorm : null };
  });
}

/** First 16 hex digits of the SHA-256 of a tensor's bytes. */
export const checksum = async (value: Tensor | undefined): Promise<string> =>
  value ? (await sha256(bytesOf(value))).slice(0, 16) : "";

export const largestDifference = (a: Tensor | undefined, b: Tensor | undefined): number =>
  a && b ? maxAbsDiff(a, b) : Number.NaN;

/** Largest magnitude in a tensor. */
export const largest = (value: Tensor | undefined): number =>
  ((value?.data ?? []) as Float32Array).reduce((most, item) => Math.max(most, Math.abs(item)), 0);
