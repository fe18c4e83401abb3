import { TunesmithError } from "../../errors/index.js";
import { input, makeNode, ops, type Value } from "../../graph/index.js";
import type { CausalLm, KeyValue, LmInputs } from "../types.js";
import { type FileGraph, finished, type GraphOptions } from "./graph.js";
import { bindParameters } from "./parameters.js";

/** A causal language model by the names of transformers.js and Optimum. */
export function causalLmGraph(
  model: CausalLm,
  { cache = false, adapters = "merged" }: GraphOptions,
): FileGraph {
  const axes = ["batch_size", "sequence_length"];
  const ids = input("input_ids", "int64", axes);
  const total = cache ? "total_sequence_length" : "sequence_length";
  const mask = input("attention_mask", "int64", ["batch_size", total]);
  const positions = input("position_ids", "int64", axes);
  const segments = ops.cast(mask, "int32");
  const inputs = cache ? withCache(model, { ids, positions, mask, segments }) : { ids, positions, segments };
  const { outputs, tensors } = bindParameters(model, model.build(inputs), adapters);
  const vocab = outputs.logits.shape[1] as number;
  const logits = ops.reshape(outputs.logits, [...axes, vocab], [ids]);
  const named: [string, Value][] = [["logits", logits]];
  if (cache) named.push(...presentOf(model, outputs.present));
  const past = inputs.past?.layers.flatMap(({ key, value }) => [key, value]) ?? [];
  return finished(model, [ids, mask, positions, ...past], named, tensors);
}

function presentOf({ origin = "the model" }: CausalLm, present: readonly KeyValue[]): [string, Value][] {
  if (present.length === 0) {
    throw new TunesmithError("config-invalid", `${origin}: it was read without a key/value cache`, {
      fix: "export it with { cache: false }, or load a file whose inputs include past_key_values",
    });
  }
  return present.flatMap(({ key, value }, layer): [string, Value][] => [
    [`present.${layer}.key`, key],
    [`present.${layer}.value`, value],
  ]);
}

/** Splits the mask at the end of the past; cached tokens stand as far before the new ones as there are unmasked ones between. */
function withCache(
  model: CausalLm,
  parts: { ids: Value; positions: Value; mask: Value; segments: Value },
): LmInputs {
  const { kvHeads, headDim, layers } = model.sizes;
  const cached = (layer: number, part: string) =>
    input(`past_key_values.${layer}.${part}`, "float32", [
      "batch_size",
      kvHeads,
      "past_sequence_length",
      headDim,
    ]);
  const cache = Array.from(
    { length: layers },
    (_, layer): KeyValue => ({ key: cached(layer, "key"), value: cached(layer, "value") }),
  );
  const [first] = cache;
  const { ids, positions, mask, segments } = parts;
  if (!first) return { ids, positions, segments };
  const pastLength = makeNode("Shape", [first.key], { start: { i: 2 }, end: { i: 3 } }).outputs[0] as Value;
  const cut = (x: Value, from: Value, to: Value, axes: string[], like: Value): Value => {
    const part = makeNode("Slice", [x, from, to, ops.ints([1])]).outputs[0] as Value;
    // The same numbers, under the names of the axes.
    return ops.reshape(part, axes, [like]);
  };
  const zero = ops.ints([0]);
  const end = ops.ints([2 ** 31 - 1]);
  const pastAxes = ["batch_size", "past_sequence_length"];
  const newAxes = ["batch_size", "sequence_length"];
  const rows = ops.sub(ops.cumSum(mask, 1), ops.scalar(1, "int64"));
  // Some programs count positions from 1: what counts is the distance.
  const newMask = cut(mask, pastLength, end, newAxes, ids);
  const last = ops.reduceMax(ops.mul(positions, newMask), [1], true);
  const shifted = ops.add(rows, ops.sub(last, ops.reduceMax(rows, [1], true)));
  return {
    ids,
    positions,
    segments: cut(segments, pastLength, end, newAxes, ids),
    past: {
      layers: cache,
      positions: cut(shifted, zero, pastLength, pastAxes, first.key),
      segments: cut(segments, zero, pastLength, pastAxes, first.key),
      exact: true,
    },
  };
}
