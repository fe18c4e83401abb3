import {
  type Dim,
  type Graph,
  input,
  makeGraph,
  makeNode,
  ops,
  recompute,
  type Value,
} from "../../graph/index.js";
import { inputsOf } from "../feeds.js";
import type { CausalLm, KeyValue, LmInputs } from "../types.js";
import type { CacheSizes } from "./cache.js";

const MAX_END = 2 ** 31 - 1;

/** Names of a layer's cache: fed as they are, and given back with `new.` in front. */
export const cacheName = (layer: number, part: "key" | "value"): string => `past.${layer}.${part}`;

/** Places of new tokens and what is cached before them, all axes symbolic. */
export function decodingInputs(
  { kvHeads, headDim, layers }: CacheSizes,
  length: string,
): Required<Pick<LmInputs, "positions" | "segments" | "past">> {
  const cache = (layer: number, part: "key" | "value") =>
    input(cacheName(layer, part), "float32", ["batch", kvHeads, "past", headDim]);
  return {
    positions: input("positions", "int64", ["batch", length]),
    segments: input("segments", "int32", ["batch", length]),
    past: {
      layers: Array.from(
        { length: layers },
        (_, at): KeyValue => ({ key: cache(at, "key"), value: cache(at, "value") }),
      ),
      positions: input("past.positions", "int64", ["batch", "past"]),
      segments: input("past.segments", "int32", ["batch", "past"]),
      prompt: input("past.prompt", "int64", ["batch", "past"]),
    },
  };
}

/** Keys and values of the new tokens alone, named as outputs. */
export function newColumns(present: readonly KeyValue[], pastPositions: Value): [string, Value][] {
  const pastLength = makeNode("Shape", [pastPositions], { start: { i: 1 }, end: { i: 2 } })
    .outputs[0] as Value;
  const fresh = (all: Value) =>
    makeNode("Slice", [all, pastLength, ops.ints([MAX_END]), ops.ints([2])]).outputs[0] as Value;
  return present.flatMap(({ key, value }, layer): [string, Value][] => [
    [`new.${cacheName(layer, "key")}`, fresh(key)],
    [`new.${cacheName(layer, "value")}`, fresh(value)],
  ]);
}

/**
 * The model as one decoding step: ids `[batch, length]` and a cache of `past` columns go in; logits `[batch, vocab]` of the
 * last token and the keys and values of the new tokens `[batch, kvHeads, length, headDim]` come out. All three axes
 * are symbolic, so one session serves the prompt and every step after it. Undefined for a model that takes no cache.
 */
export function decodeGraph(model: CausalLm): Graph | undefined {
  const ids = input("ids", "int64", ["batch", "length"]);
  const decoding = decodingInputs(model.sizes, "length");
  const prompt = input("prompt", "int64", ["batch", "length"]);
  const outputs = model.build({ ids, prompt, ...decoding });
  if (outputs.present.length === 0) return undefined;
  const named: [string, Value][] = [
    ["logits", lastLogits(outputs.hidden, outputs.logits, ids, "batch")],
    ...newColumns(outputs.present, decoding.past.positions),
  ];
  return makeGraph("decode", inputsOf(named.map(([, value]) => value)), named);
}

/** The model over one whole row of any length: logits `[1, vocab]` of its last token. */
export function wholeGraph(model: CausalLm): Graph {
  const axis = (name: string, dtype: "int64" | "int32") => input(name, dtype, [1, "length"]);
  const inputs = {
    ids: axis("ids", "int64"),
    prompt: axis("prompt", "int64"),
    positions: axis("positions", "int64"),
    segments: axis("segments", "int32"),
  };
  const { hidden, logits } = model.build(inputs);
  const last = lastLogits(hidden, logits, inputs.ids, 1);
  return makeGraph("whole", inputsOf([last]), [["logits", last]]);
}

/** The head on the last token of each row only: over a long prompt it would cost more than a layer. */
function lastLogits(hidden: Value, logits: Value, ids: Value, batch: Dim): Value {
  const width = hidden.shape[1] as number;
  const rows = ops.reshape(hidden, [batch, "length", width], [ids]);
  const last = ops.reshape(ops.slice(rows, 1, -1), [batch, width], [ids]);
  return recompute([logits], new Map([[hidden, last]]))[0] as Value;
}
