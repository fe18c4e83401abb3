import { fileExists, joinPath } from "#io";
import { TunesmithError } from "../errors/index.js";
import {
  type Dim,
  type Graph,
  inFloat32,
  loadOnnx,
  nodesOf,
  reach,
  type Value,
  widenWeights,
} from "../graph/index.js";
import { readJson } from "./checkpoint.js";
import { buildOnnx, type OnnxSource } from "./onnx/build.js";
import { withoutCacheBranch } from "./onnx/cache-branch.js";
import { exposeLinearMaps } from "./onnx/linear-maps.js";
import { pastNames, readSignature, SEGMENT_MASK, unsupported } from "./onnx/signature.js";
import { homeOf } from "./onnx/tensor-model.js";
import { namesOf } from "./path-rules.js";
import { staticInputs } from "./probe.js";
import { type Site, sitesOf } from "./sites.js";
import { tokenizerIn } from "./tokenizer-files.js";
import type { CausalLm, LmOutputs, LmSizes, Weights } from "./types.js";

/** Operators whose cache has no room for unused columns. */
const TIGHT_CACHE = new Set(["GroupQueryAttention"]);
/** Adapter targets by preference: the first set of which all are there. */
const PREFERRED = [
  ["q_proj", "v_proj"],
  ["c_attn"],
  ["query_key_value"],
  ["query", "value"],
  ["Wqkv"],
  ["qkv_proj"],
];

/**
 * Loads a causal language model from an ONNX file: `input_ids`, and what exporters add to it (`attention_mask`,
 * `position_ids`, a cache as `past_key_values.N.key/value` or `past_N`), to `logits`. Modules are called as the
 * exporter called them; weights stay in the file, those of a half-precision file are read into memory as float32. `config.json` and the tokenizer are read from the file's folder or
 * the one above it. A file whose mask only tells padding cannot keep packed documents apart: the model is then not
 * `packable`.
 *
 * Throws `format-unsupported` naming the input or output that does not fit, and what `loadOnnx` throws.
 *
 * @example
 * ```ts
 * import { loadOnnxLm, probeOutputs, sitesOf } from "tunesmith/models";
 * const model = await loadOnnxLm("model.onnx");
 * console.log(sitesOf(probeOutputs(model)).map((site) => site.path));
 * ```
 */
export async function loadOnnxLm(path: string): Promise<CausalLm> {
  const loaded = await loadOnnx(path);
  const decoder = await single(withoutCacheBranch(loaded.graph));
  const signature = readSignature(decoder, path);
  const tight = nodesOf(decoder).some(({ op }) => TIGHT_CACHE.has(op));
  const source: OnnxSource = {
    path,
    signature,
    graph: exposeLinearMaps(decoder),
    segmentMask: signature.caches.length === 0 && loaded.metadata.properties[SEGMENT_MASK] === "segments",
    // Without positions as an input the file counts the columns of the cache, used or not.
    cached: signature.caches.length > 0 && signature.positions !== undefined && !tight,
  };
  const probe = buildOnnx(source, staticInputs(...probeShape(source)));
  const folder = await homeOf(path);
  const config = (await fileExists(joinPath(folder, "config.json")))
    ? await readJson(joinPath(folder, "config.json"))
    : {};
  return {
    task: "causal-lm",
    architecture: "onnx",
    sizes: sizesOf(source, probe, config),
    weights: weightsOf(probe, source),
    parameters: new Map(),
    config,
    defaultTargets: targetsOf(sitesOf(probe)),
    packable: source.segmentMask,
    tokenizer: await tokenizerIn(folder),
    origin: path,
    build: (inputs) => buildOnnx(source, inputs),
  };
}

/** A file in half precision is trained in float32. */
async function single(graph: Graph): Promise<Graph> {
  const halves = reach(graph.outputs.values()).values.some(
    ({ dtype }) => dtype === "float16" || dtype === "bfloat16",
  );
  return halves ? inFloat32(await widenWeights(graph), { interface: "float32" }) : graph;
}

/** A small batch that fits files exported with fixed axes. */
function probeShape({ graph, signature }: OnnxSource): [number, number] {
  const shape = graph.inputs.find(({ name }) => name === signature.ids)?.shape ?? [];
  const [batch = 1, length = 2] = shape.map((dim, axis) => (typeof dim === "number" ? dim : axis + 1));
  return [batch, length];
}

function sizesOf(source: OnnxSource, probe: LmOutputs, config: Readonly<Record<string, unknown>>): LmSizes {
  const [vocabSize, hiddenSize] = [probe.logits.shape[1], probe.hidden.shape[1]];
  if (typeof vocabSize !== "number" || typeof hiddenSize !== "number") {
    throw unsupported(source.path, "the size of its vocabulary is not fixed", source.graph);
  }
  const told = (...names: string[]) =>
    names.map((name) => config[name]).find((value) => typeof value === "number");
  const [, kvHeads, , headDim] = probe.present[0]?.key.shape ?? cacheShape(source);
  const heads = Number(
    told("num_attention_heads", "n_head") ?? (typeof headDim === "number" ? hiddenSize / headDim : 1),
  );
  return {
    vocabSize,
    hiddenSize,
    layers: source.signature.caches.length || Number(told("num_hidden_layers", "n_layer") ?? 0),
    heads,
    kvHeads: typeof kvHeads === "number" ? kvHeads : heads,
    headDim: typeof headDim === "number" ? headDim : hiddenSize / heads,
    maxPositions: Number(
      told("max_position_embeddings", "n_positions") ?? positionRows(source) ?? Number.MAX_SAFE_INTEGER,
    ),
  };
}

/** Axes of a layer's keys, as the file declares them. */
function cacheShape({ graph, signature }: OnnxSource): readonly Dim[] {
  const [slot] = signature.caches;
  if (!slot) return [];
  const [name] = pastNames(slot);
  const { shape } = graph.inputs.find((value) => value.name === name) ?? { shape: [] };
  return slot.kind === "packed" ? shape.slice(1) : shape;
}

/** Rows of the table that positions look things up in (embeddings, or angles of rotation). */
function positionRows({ graph, signature }: OnnxSource): number | undefined {
  const positions = graph.inputs.find(({ name }) => name === signature.positions);
  if (!positions) return undefined;
  const rows = nodesOf(graph).flatMap(({ op, inputs: [table, at] }) => {
    const lookup = op === "Gather" && table?.source.kind === "constant" && at && readsOnly(at, positions);
    return lookup && typeof table.shape[0] === "number" ? [table.shape[0]] : [];
  });
  return rows.length > 0 ? Math.min(...rows) : undefined;
}

const readsOnly = (value: Value, input: Value): boolean => {
  const inputs = reach([value]).values.filter(({ source }) => source.kind === "input");
  return inputs.length === 1 && inputs[0] === input;
};

/** Named floating-point tensors that the forward pass reads, and the codes of quantised weights. */
function weightsOf(probe: LmOutputs, { path, graph }: OnnxSource): Weights {
  const weights = new Map<string, Value>();
  const codes = new Set(sitesOf(probe).map(({ stored }) => stored?.codes));
  for (const value of reach([probe.logits, ...probe.present.flatMap(({ key, value: v }) => [key, v])])
    .values) {
    const isWeight = value.source.kind === "constant" && value.shape.length > 0 && value.name !== undefined;
    if (!isWeight || !(/^(b?float)/.test(value.dtype) || codes.has(value))) continue;
    if (weights.has(String(value.name))) {
      throw new TunesmithError("name-conflict", `${path}: two weights are called '${value.name}'`, {
        fix: "give initialisers different names",
        details: { graph: graph.name },
      });
    }
    weights.set(String(value.name), value);
  }
  return weights;
}

/** Attention projections if they have a known name, else every kind of linear map but the head. */
function targetsOf(sites: readonly Site[]): string[] {
  const linear = sites.filter(({ kind, isHead }) => kind === "linear" && !isHead);
  const leaves = new Set(linear.map(({ path }) => path.slice(path.lastIndexOf(".") + 1)));
  return (
    PREFERRED.find((names) => names.every((name) => leaves.has(name))) ??
    namesOf(
      linear.map(({ path }) => path),
      sites.map(({ path }) => path),
    )
  );
}
