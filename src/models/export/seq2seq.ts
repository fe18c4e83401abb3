import { TunesmithError } from "../../errors/index.js";
import {
  type Graph,
  input,
  makeGraph,
  makeNode,
  ops,
  reach,
  recompute,
  rewriteValues,
  type Value,
} from "../../graph/index.js";
import type { DecoderSizes, DecodingInputs, KeyValue, TensorModel, TensorOutputs } from "../types.js";
import { type FileGraph, finished, modelInputs } from "./graph.js";
import { type AdapterWeights, bindParameters } from "./parameters.js";

/** The parts of a sequence-to-sequence model as transformers.js and Optimum keep them in files. */
export interface Seq2seqGraphs {
  /** The encoder's inputs to `last_hidden_state`. */
  readonly encoder: FileGraph;
  /**
   * A step of the decoder: `input_ids`, `encoder_hidden_states`, `encoder_attention_mask` (of text), the caches
   * `past_key_values.N.decoder|encoder.key|value`, and `use_cache_branch`, which says that the encoder's keys and values are
   * given and need not be computed; to `logits` and `present.N....`.
   */
  readonly decoder: FileGraph;
}

const AXES = ["batch_size", "decoder_sequence_length"];
const PARTS = ["key", "value"] as const;

/** Throws `config-invalid` for a model without a decoder of its own. */
export function seq2seqGraphs(model: TensorModel, adapters: AdapterWeights): Seq2seqGraphs {
  const sizes = model.decoder;
  const values = modelInputs(model);
  const encoderOnly = [...values].flatMap(([name, value]) => (name === "decoder_input_ids" ? [] : [value]));
  const ids = input("input_ids", "int64", AXES);
  const decoding = sizes && decodingInputs(sizes, ids);
  const built = decoding && {
    ...bindParameters(
      model,
      model.build({ values: { ...Object.fromEntries(values), decoder_input_ids: ids }, decoding }),
      adapters,
    ),
    past: decoding.past.layers,
  };
  const hidden = built?.outputs.values.encoder_last_hidden_state;
  if (!built || !hidden || !built.outputs.decoding) {
    throw new TunesmithError("config-invalid", `a model for ${model.task} has no decoder to write apart`, {
      fix: 'export it as one file: { layout: "plain" }',
    });
  }
  const encoder = finished(model, encoderOnly, [["last_hidden_state", hidden]], built.tensors);
  return { encoder, decoder: decoderGraph(model, built, { ids, hidden, encoderOnly }) };
}

/** Positions follow the cache, and all its columns are text. */
function decodingInputs({ kvHeads, headDim, layers }: DecoderSizes, ids: Value): DecodingInputs {
  const cache = (layer: number, part: string) =>
    input(`past_key_values.${layer}.decoder.${part}`, "float32", [
      "batch_size",
      kvHeads,
      "past_decoder_sequence_length",
      headDim,
    ]);
  const past = Array.from(
    { length: layers },
    (_, layer): KeyValue => ({ key: cache(layer, "key"), value: cache(layer, "value") }),
  );
  const first = past[0]?.key ?? ids;
  const pastAxes = ["batch_size", "past_decoder_sequence_length"];
  const ones = (axes: string[], like: Value) => ops.full(axes, 1, "int64", [like]);
  const count = (axes: string[], like: Value) => ops.cumSum(ones(axes, like), 1, { exclusive: true });
  const pastLength = makeNode("Shape", [first], { start: { i: 2 }, end: { i: 3 } }).outputs[0] as Value;
  return {
    positions: ops.add(count(AXES, ids), pastLength),
    segments: ops.cast(ones(AXES, ids), "int32"),
    past: {
      layers: past,
      positions: count(pastAxes, first),
      segments: ops.cast(ones(pastAxes, first), "int32"),
    },
  };
}

interface Built {
  readonly outputs: TensorOutputs;
  readonly tensors: FileGraph["tensors"];
  readonly past: readonly KeyValue[];
}

function decoderGraph(
  model: TensorModel,
  { outputs, tensors, past }: Built,
  parts: { readonly ids: Value; readonly hidden: Value; readonly encoderOnly: readonly Value[] },
): FileGraph {
  const { present, cross, encoded } = outputs.decoding as NonNullable<TensorOutputs["decoding"]>;
  const states = input("encoder_hidden_states", "float32", parts.hidden.shape);
  const given = new Map<Value, Value>([[encoded, ops.reshape(states, encoded.shape, [states])]]);
  const mask = parts.encoderOnly.find(({ name }) => name === "attention_mask");
  const masks = mask ? [input("encoder_attention_mask", mask.dtype, mask.shape)] : [];
  if (mask && masks[0]) given.set(mask, masks[0]);
  const useCache = input("use_cache_branch", "bool", [1]);
  const computed = cross.flatMap(({ key, value }) => [key, value]);
  const named: [string, Value][] = [
    ["logits", outputs.values.logits as Value],
    ...present.flatMap((own, layer) =>
      PARTS.map((part) => pair(presentName(layer, "decoder", part), own[part])),
    ),
  ];
  const get = rewriteValues([...named.map(([, value]) => value), ...computed], {
    replace: given,
    visit: lengthsOf(states, new Set(parts.encoderOnly)),
  });
  const fresh = computed.map(get);
  const kept = fresh.map((value, at) =>
    input(`past_key_values.${Math.floor(at / 2)}.encoder.${PARTS[at % 2]}`, value.dtype, [
      ...value.shape.slice(0, 2),
      "encoder_sequence_length_out",
      ...value.shape.slice(3),
    ]),
  );
  const chosen = either(useCache, kept, fresh);
  const results = recompute(
    named.map(([, value]) => get(value)),
    new Map(fresh.map((value, at) => [value, chosen[at] as Value])),
  );
  const all = [
    ...named.map(([name], at) => pair(name, results[at] as Value)),
    ...chosen.map((value, at) => pair(presentName(Math.floor(at / 2), "encoder", PARTS[at % 2]), value)),
  ];
  const caches = past.flatMap(({ key, value }, layer) => [
    key,
    value,
    ...kept.slice(2 * layer, 2 * layer + 2),
  ]);
  return finished(model, [...masks, parts.ids, states, ...caches, useCache], all, tensors);
}

const pair = (name: string, value: Value): [string, Value] => [name, value];
const presentName = (layer: number, side: "decoder" | "encoder", part: string | undefined) =>
  `present.${layer}.${side}.${part}`;

/** Lengths that the decoder takes from the encoder's inputs are those of its output. */
const lengthsOf =
  (states: Value, encoderInputs: ReadonlySet<Value>) =>
  ({
    op,
    inputs: [from],
    attrs,
  }: Parameters<NonNullable<Parameters<typeof rewriteValues>[1]["visit"]>>[0]) => {
    if (op !== "Shape" || !from || !encoderInputs.has(from)) return undefined;
    const start = attrs.start && "i" in attrs.start ? Number(attrs.start.i) : 0;
    const axis = states.shape.indexOf(from.shape[start] as string);
    if (axis < 0) return undefined;
    return makeNode("Shape", [states], { start: { i: axis }, end: { i: axis + 1 } }).outputs;
  };

/** The cached values where they are given, else those computed; only one of the two is ever run. */
function either(useCache: Value, kept: readonly Value[], fresh: readonly Value[]): readonly Value[] {
  const branch = (name: string, values: readonly Value[]): { g: Graph } => {
    const read = reach(values).values.filter(({ source }) => source.kind !== "node");
    const named = values.map((value, at) => pair(`${name}_${at}`, value));
    return { g: { ...makeGraph(name, [], named), captures: read } };
  };
  const node = makeNode(
    "If",
    [useCache],
    { then_branch: branch("cached", kept), else_branch: branch("computed", fresh) },
    { outputs: fresh.length },
  );
  return node.outputs;
}
