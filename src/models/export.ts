import { joinPath, makeDir, writeFileAtomic } from "#io";
import {
  constant,
  type Graph,
  input,
  makeGraph,
  makeNode,
  ops,
  type SaveOptions,
  saveOnnx,
  substitute,
  type Value,
} from "../graph/index.js";
import type { Tensor } from "../tensor/index.js";
import { inputsOf } from "./feeds.js";
import { SEGMENT_MASK } from "./onnx/signature.js";
import { copyTokenizer } from "./save.js";
import type { CausalLm, KeyValue, LmInputs } from "./types.js";

export interface ExportOptions {
  /**
   * With a key/value cache: inputs `past_key_values.N.key/value` `[batch, kvHeads, past, headDim]` (`past` may be 0), outputs
   * `present.N.key/value`; `attention_mask` then covers past and new tokens. Default false.
   */
  readonly cache?: boolean;
  /** Whether weights go to a file of their own; `auto` (default): above 1 GiB. */
  readonly external?: SaveOptions["external"];
}

export interface ExportedOnnx {
  /** The model file. */
  readonly path: string;
  /** Every file written. */
  readonly files: readonly string[];
}

/**
 * The model as a graph in the shape that transformers.js and Optimum use: `input_ids`, `attention_mask` and `position_ids`
 * int64 `[batch, sequence]` in, `logits` float32 `[batch, sequence, vocab]` out, all axes symbolic. Everything the model
 * reads besides (adapters) becomes a constant as it is now.
 */
export function exportGraph(model: CausalLm, options: ExportOptions = {}): Graph {
  const axes = ["batch_size", "sequence_length"];
  const ids = input("input_ids", "int64", axes);
  const total = options.cache ? "total_sequence_length" : "sequence_length";
  const mask = input("attention_mask", "int64", ["batch_size", total]);
  const positions = input("position_ids", "int64", axes);
  const segments = ops.cast(mask, "int32");
  const inputs = options.cache
    ? withCache(model, { ids, positions, mask, segments })
    : { ids, positions, segments };
  const outputs = model.build(inputs);
  const vocab = outputs.logits.shape[1] as number;
  const logits = ops.reshape(outputs.logits, [...axes, vocab], [ids]);
  const named: [string, Value][] = [["logits", logits]];
  if (options.cache) {
    outputs.present.forEach(({ key, value }, layer) => {
      named.push([`present.${layer}.key`, key], [`present.${layer}.value`, value]);
    });
  }
  const fixed = new Map(
    [...model.parameters.values()].map(
      ({ value, tensor, name }) => [value, constant(copyOf(tensor), name)] as const,
    ),
  );
  const graph = makeGraph(model.architecture, inputsOf(named.map(([, value]) => value)), named);
  const frozen = substitute(graph, fixed);
  const read = new Set(inputsOf(frozen.outputs.values()));
  // Declared even when the model has no use for one (positions of a model without them), as callers always feed all.
  const order = [ids, mask, positions, ...pastInputs(inputs)];
  const known = new Set<Value>(order);
  return { ...frozen, inputs: [...order, ...[...read].filter((value) => !known.has(value))] };
}

/** Later training must not change what was exported. */
const copyOf = (tensor: Tensor): Tensor => ({ ...tensor, data: tensor.data.slice() }) as Tensor;

const pastInputs = (inputs: LmInputs): Value[] =>
  inputs.past?.layers.flatMap(({ key, value }) => [key, value]) ?? [];

/** Splits the mask at the end of the past; positions of cached tokens count the unmasked ones before them. */
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
  const rows = ops.sub(ops.cumSum(mask, 1), ops.scalar(1, "int64"));
  return {
    ids,
    positions,
    segments: cut(segments, pastLength, end, ["batch_size", "sequence_length"], ids),
    past: {
      layers: cache,
      positions: cut(rows, zero, pastLength, pastAxes, first.key),
      segments: cut(segments, zero, pastLength, pastAxes, first.key),
    },
  };
}

/**
 * Writes a model as ONNX: `model.onnx`, or with a cache `onnx/model.onnx`, where transformers.js looks for it. Large models
 * get their weights in `model.onnx_data` beside it. `config.json` and the tokenizer's files go into the folder too. Throws
 * `file-write-failed`.
 *
 * @example
 * ```ts
 * import { exportOnnx, loadModel } from "tunesmith/models";
 * const { path } = await exportOnnx(await loadModel("path/to/model"), "exported");
 * console.log(path); // exported/model.onnx
 * ```
 */
export async function exportOnnx(
  model: CausalLm,
  folder: string,
  options: ExportOptions = {},
): Promise<ExportedOnnx> {
  const target = options.cache ? joinPath(folder, "onnx") : folder;
  await makeDir(target);
  const path = joinPath(target, "model.onnx");
  // With a cache the mask also counts positions, so it must be 0 or 1; without, it tells segments apart.
  const metadata: Record<string, string> = options.cache ? {} : { [SEGMENT_MASK]: "segments" };
  const { files } = await saveOnnx(exportGraph(model, options), path, {
    external: options.external ?? "auto",
    metadata,
  });
  const beside = (await copyTokenizer(model, folder, undefined)).map((name) => joinPath(folder, name));
  if (Object.keys(model.config).length === 0) return { path, files: [...files, ...beside] };
  const config = joinPath(folder, "config.json");
  await writeFileAtomic(config, `${JSON.stringify(model.config, undefined, 2)}\n`);
  return { path, files: [...files, ...beside, config] };
}
