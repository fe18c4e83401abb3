import { dirname, fileExists, joinPath } from "#io";
import { TunesmithError } from "../../errors/index.js";
import {
  type Dim,
  type Graph,
  inFloat32,
  inlineControlFlow,
  loadOnnx,
  nodesOf,
  ops,
  reach,
  rewriteValues,
  specialise,
  type Value,
} from "../../graph/index.js";
import { readJson } from "../checkpoint.js";
import { tensorInputs } from "../probe.js";
import { broadTargets, siteOf, sitesOf } from "../sites.js";
import { tokenizerIn } from "../tokenizer-files.js";
import type { InputSpec, Task, TensorInputs, TensorModel, TensorOutputs, Weights } from "../types.js";
import { withoutCacheBranch } from "./cache-branch.js";
import { residualPoints } from "./cut-points.js";
import { exposeLinearMaps } from "./linear-maps.js";
import { taskOfOnnx } from "./task.js";

/** What inputs hold when they are not given. */
const FILLS: Readonly<Record<string, number>> = { attention_mask: 1, token_type_ids: 0, pixel_mask: 1 };

/** Sizes of named axes in a small pass: images must survive the strides of the network. */
const PROBE_IMAGE = 64;
const PROBE_LENGTH = 8;

/** A graph to be laid over given inputs, with what is known about it. */
interface OnnxTensorSource {
  readonly path: string;
  readonly graph: Graph;
}

/** The folder of config and tokenizer: the file's own, or the one above an `onnx` folder. */
export async function homeOf(path: string): Promise<string> {
  const folder = dirname(path);
  const above = joinPath(folder, "..");
  const elsewhere = !(await fileExists(joinPath(folder, "config.json"))) && /(^|[/\\])onnx$/.test(folder);
  return elsewhere && (await fileExists(above)) ? above : folder;
}

/**
 * Loads any ONNX file as a model of named tensors. Half-precision files compute in float32; branches and loops whose
 * course is known are laid out; weights stay in the file. `config.json` and the tokenizer are read from the file's folder
 * or the one above it.
 *
 * @param wanted The task; default: what config and inputs say, else `custom`.
 * Throws what `loadOnnx` throws.
 *
 * @example
 * ```ts
 * import { loadOnnxModel, sitesOf, probeOutputs } from "tunesmith/models";
 * const model = await loadOnnxModel("squeezenet.onnx");
 * console.log(model.task, sitesOf(probeOutputs(model)).map((site) => site.path));
 * ```
 */
export async function loadOnnxModel(path: string, wanted?: Task): Promise<TensorModel> {
  const loaded = await loadOnnx(path);
  const single = inFloat32(withoutCacheBranch(loaded.graph), { interface: "float32" });
  const plain = inlineControlFlow(single);
  const source: OnnxTensorSource = { path, graph: exposeLinearMaps(plain) };
  const home = await homeOf(path);
  const configPath = joinPath(home, "config.json");
  const config = (await fileExists(configPath)) ? await readJson(configPath) : {};
  const task = (wanted ?? taskOfOnnx(source.graph, config)) as TensorModel["task"];
  const inputs = source.graph.inputs.map((value) => specOf(value, source.graph));
  const probeAxes = probeSizes(inputs, config);
  const labels = labelsOf(config);
  const model: TensorModel = {
    task,
    architecture: "onnx",
    inputs,
    probeAxes,
    ...(labels ? { labels } : {}),
    weights: weightsOf(source),
    parameters: new Map(),
    config,
    defaultTargets: [],
    tokenizer: await tokenizerIn(home),
    origin: path,
    build: (given) => layOut(source, given),
  };
  // A language model's caches have lengths that depend on each other: its own loader takes them out.
  return task === ("causal-lm" as string)
    ? model
    : { ...model, defaultTargets: broadTargets(sitesOf(model.build(tensorInputs(model)))) };
}

/** Lays the imported graph over given inputs. */
function layOut({ path, graph }: OnnxTensorSource, { values }: TensorInputs): TensorOutputs {
  const bound = specialise(graph, bindingsOf(graph, values, path));
  const replace = new Map<Value, Value>();
  for (const own of bound.inputs) {
    const given = values[String(own.name)];
    if (given) replace.set(own, ops.cast(given, own.dtype));
  }
  const get = rewriteValues(bound.outputs.values(), { replace });
  const results = Object.fromEntries([...bound.outputs].map(([name, value]) => [name, get(value)]));
  return { values: results, boundaries: boundariesOf(results, values) };
}

/** Lengths of the graph's own axes as the given inputs have them. Throws `shape-mismatch`. */
function bindingsOf(
  graph: Graph,
  values: Readonly<Record<string, Value>>,
  path: string,
): Record<string, number> {
  const bindings: Record<string, number> = {};
  for (const own of graph.inputs) {
    const given = values[String(own.name)];
    given?.shape.forEach((dim, at) => {
      const expected = own.shape[at];
      if (expected === dim || typeof dim !== "number") return;
      if (typeof expected === "string" && /^[\w.]+$/.test(expected)) bindings[expected] = dim;
      else throw misfit(path, own, given.shape);
    });
  }
  return bindings;
}

const misfit = (path: string, { name, shape }: Value, given: readonly Dim[]): TunesmithError =>
  new TunesmithError(
    "shape-mismatch",
    `${path}: input '${name}' is [${shape.join(", ")}] in the file; [${given.join(", ")}] was given`,
    { fix: misfitFix(shape, given) },
  );

function misfitFix(shape: readonly Dim[], given: readonly Dim[]): string {
  const wrong = shape.flatMap((dim, at) => (dim === given[at] ? [] : [at]));
  const fixed =
    shape[0] === 1 && wrong.join() === "0"
      ? "use batches of one (--batch-size 1, --accumulate for larger steps)"
      : "use the sizes it was exported for";
  return `${fixed}, or export it with dynamic axes`;
}

/** Where the residual stream of a transformer may be cut; none for other networks. */
function boundariesOf(
  results: Readonly<Record<string, Value>>,
  values: Readonly<Record<string, Value>>,
): Value[] {
  const hidden = results.last_hidden_state;
  const ids = values.input_ids;
  const tokens = ids?.shape.every((dim) => typeof dim === "number")
    ? (ids.shape as number[]).reduce((a, b) => a * b, 1)
    : undefined;
  return hidden && ids && tokens !== undefined ? residualPoints(hidden, ids, tokens) : [];
}

/** An input as the file declares it; an axis without a name gets one of its own. */
function specOf(value: Value, graph: Graph): InputSpec {
  const name = String(value.name);
  const shape = value.shape.map((dim, at) =>
    typeof dim === "number" || /^[\w.]+$/.test(dim) ? dim : `${name}_${at}`,
  );
  const rows = rowsLookedUp(value, graph);
  const fill = FILLS[name];
  return {
    name,
    dtype: value.dtype,
    shape,
    ...(rows === undefined ? {} : { below: rows }),
    ...(fill === undefined ? {} : { fill }),
  };
}

/** Rows of the table that an input of integers is looked up in. */
function rowsLookedUp(value: Value, graph: Graph): number | undefined {
  if (!/^int/.test(value.dtype)) return undefined;
  const rows = nodesOf(graph).flatMap(({ op, inputs: [table, at] }) => {
    const isLookup = op === "Gather" && table?.source.kind === "constant" && at !== undefined;
    const dim = table?.shape[0];
    return isLookup && typeof dim === "number" && readsOnly(at, value) ? [dim] : [];
  });
  return rows.length > 0 ? Math.min(...rows) : undefined;
}

const readsOnly = (value: Value, input: Value): boolean => {
  const inputs = reach([value]).values.filter(({ source }) => source.kind === "input");
  return inputs.length === 1 && inputs[0] === input;
};

function probeSizes(
  inputs: readonly InputSpec[],
  config: Readonly<Record<string, unknown>>,
): Record<string, number> {
  const image = typeof config.image_size === "number" ? config.image_size : PROBE_IMAGE;
  const sizes: Record<string, number> = {};
  for (const { shape } of inputs) {
    shape.forEach((dim, at) => {
      if (typeof dim !== "string") return;
      sizes[dim] ??= at === 0 ? 1 : shape.length === 4 ? image : PROBE_LENGTH;
    });
  }
  return sizes;
}

/** Class names of the config, in their order. */
function labelsOf({ id2label }: Readonly<Record<string, unknown>>): string[] | undefined {
  if (typeof id2label !== "object" || id2label === null) return undefined;
  return Object.entries(id2label)
    .sort(([a], [b]) => Number(a) - Number(b))
    .map(([, name]) => String(name));
}

/**
 * Named floating-point tensors that the forward pass reads, and the codes of quantised weights; of two of one name, the
 * second gets a number.
 */
function weightsOf({ graph }: OnnxTensorSource): Weights {
  const weights = new Map<string, Value>();
  const { nodes, values } = reach(graph.outputs.values());
  const codes = new Set(nodes.map((node) => siteOf(node)?.stored?.codes));
  for (const value of values) {
    const isWeight = value.source.kind === "constant" && value.shape.length > 0 && value.name !== undefined;
    if (isWeight && (/^b?float/.test(value.dtype) || codes.has(value)))
      weights.set(freeName(String(value.name), weights), value);
  }
  return weights;
}

function freeName(name: string, taken: ReadonlyMap<string, unknown>): string {
  if (!taken.has(name)) return name;
  let count = 2;
  while (taken.has(`${name}.${count}`)) count++;
  return `${name}.${count}`;
}
