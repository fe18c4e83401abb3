import * as ort from "#ort";
import { TunesmithError } from "../errors/index.js";
import {
  constant,
  constantsOf,
  type Graph,
  type Node,
  nodesOf,
  substitute,
  usesOf,
  type Value,
} from "../graph/index.js";
import { encodeGraph } from "../graph/onnx/encode.js";
import { byteLengthOf, elementCount, isTensorRef, readTensor, type Tensor } from "../tensor/index.js";
import { forBackend } from "./dialect.js";
import type { ExternalLocation, SessionOptions, TensorMap } from "./ort/types.js";

/** A graph ready to run. Create one per purpose and shape; sessions over the same weight file share its memory. */
export interface Session {
  readonly inputNames: readonly string[];
  readonly outputNames: readonly string[];
  /**
   * Runs the graph. Throws `tensor-not-found` for a missing or unknown feed, `shape-mismatch` for a wrong shape or
   * dtype, `out-of-memory` and `runtime-failed` from execution. `fetches` limits what is copied out, not what runs.
   */
  run(feeds: TensorMap, fetches?: readonly string[]): Promise<Record<string, Tensor>>;
  release(): Promise<void>;
}

/**
 * Compiles a graph for ONNX Runtime.
 *
 * @example
 * ```ts
 * import { input, makeGraph, ops } from "tunesmith/graph";
 * import { createSession } from "tunesmith/runtime";
 * import { tensor } from "tunesmith/tensor";
 * const x = input("x", "float32", [2]);
 * const session = await createSession(makeGraph("double", [x], [["y", ops.add(x, x)]]));
 * const { y } = await session.run({ x: tensor("float32", [2], Float32Array.of(1, 2)) });
 * console.log(y?.data);
 * await session.release();
 * ```
 */
export async function createSession(source: Graph, options: SessionOptions = {}): Promise<Session> {
  const graph = forBackend(source, options.backend ?? ort.defaultBackend);
  const { external, loaded } = await placeConstants(graph);
  const model = encodeGraph(loaded.size > 0 ? substitute(graph, loaded) : graph, { external });
  const locations = new Set([...external.values()].map((entry) => entry.location));
  const prepack = options.prepack ?? (constantBytes(graph) <= PREPACK_BYTES || unpacksForFew(graph));
  const config = { ...quantisedConfig(graph), ...options.config };
  const raw = await ort.load(model, locations, { ...options, prepack, config });
  const outputNames = [...graph.outputs.keys()];
  return {
    inputNames: graph.inputs.map((value) => String(value.name)),
    outputNames,
    async run(feeds, fetches = outputNames) {
      checkFeeds(graph, feeds);
      // Awaited here: the graph must stay reachable while it runs, or its constants could be taken for garbage.
      return await raw.run(feeds, fetches);
    },
    release: () => raw.release(),
  };
}

/** Up to so many rows a product with 4-bit weights takes less time than making them floats. */
const FEW_ROWS = 16;

/**
 * Whether a product with 4-bit weights meets few rows, as in generation. Without repacking MatMulNBits makes the whole weight
 * floats at every run: of 768 x 3072 that took 36 ms for one row, with repacking 0.5 ms.
 */
const unpacksForFew = (graph: Graph): boolean =>
  nodesOf(graph).some(({ op, inputs: [x] }) => {
    if (op !== "MatMulNBits" || !x) return false;
    const rows = x.shape.slice(0, -1);
    return (
      rows.reduce<number>((product, dim) => product * (typeof dim === "number" ? dim : 1), 1) <= FEW_ROWS
    );
  });

const MOVING = new Set([
  "Reshape",
  "Transpose",
  "Squeeze",
  "Unsqueeze",
  "Flatten",
  "Slice",
  "Expand",
  "Gather",
]);

/**
 * ONNX Runtime moves DequantizeLinear past what reshapes its result, and gets types and negative codes wrong
 * (microsoft/onnxruntime#27845, #25526). Files for inference quantise again behind such an operator, and nothing is lost;
 * a training graph goes on in floats and is run as it is written.
 */
function quantisedConfig(graph: Graph): Readonly<Record<string, string>> {
  const quantised = nodesOf(graph).filter(({ op }) => op === "DequantizeLinear");
  if (quantised.length === 0) return {};
  const uses = usesOf(graph);
  const readersOf = (node: Node | undefined) =>
    (node?.outputs ?? []).flatMap((value) => uses.get(value) ?? []);
  const goesOn = (reader: Node) =>
    MOVING.has(reader.op) && readersOf(reader).some(({ op }) => op !== "QuantizeLinear");
  const isOpen = quantised.some((node) => readersOf(node).some(goesOn));
  return isOpen ? { "session.disable_quant_qdq": "1" } : {};
}

/** Bytes of memory that the process holds; undefined in a page. */
export const processMemory = (): number | undefined => ort.processMemory();

/** Models up to this size get repacked copies of their weights by default: what they gain outweighs what they take. */
export const PREPACK_BYTES = 64 * 2 ** 20;

const constantBytes = (graph: Graph): number =>
  constantsOf(graph).reduce((sum, { dtype, shape }) => {
    return sum + byteLengthOf(dtype, elementCount(shape as readonly number[]));
  }, 0);

/** The session options of long work: in Node in a worker, so that the event loop stays free; `options` wins. */
export const longRunning = (options: SessionOptions = {}): SessionOptions => ({
  worker: ort.workerByDefault,
  ...options,
});

/** Finds every constant a place the runtime can map; what has none is read into memory. */
async function placeConstants(graph: Graph) {
  const external = new Map<Value, ExternalLocation>();
  const loaded = new Map<Value, Value>();
  for (const value of constantsOf(graph)) {
    if (value.source.kind !== "constant") continue;
    const { data } = value.source;
    const location = await ort.place(data);
    if (location) external.set(value, location);
    else if (isTensorRef(data)) loaded.set(value, constant(await readTensor(data), value.name));
  }
  return { external, loaded };
}

function checkFeeds(graph: Graph, feeds: TensorMap): void {
  const known = new Set(graph.inputs.map((value) => value.name));
  for (const name of Object.keys(feeds)) {
    if (known.has(name)) continue;
    throw new TunesmithError("tensor-not-found", `graph '${graph.name}' has no input '${name}'`, {
      fix: `its inputs are: ${[...known].join(", ")}`,
    });
  }
  for (const value of graph.inputs) {
    const feed = feeds[String(value.name)];
    if (!feed)
      throw new TunesmithError(
        "tensor-not-found",
        `input '${value.name}' of graph '${graph.name}' was not fed`,
      );
    const fits =
      feed.dtype === value.dtype &&
      feed.shape.length === value.shape.length &&
      value.shape.every((dim, axis) => typeof dim === "string" || dim === feed.shape[axis]);
    if (!fits) {
      throw new TunesmithError(
        "shape-mismatch",
        `input '${value.name}' of graph '${graph.name}' expects ${value.dtype}[${value.shape}], got ${feed.dtype}[${feed.shape}]`,
      );
    }
  }
}

/** Runs a graph once: creates a session, runs it, releases it. */
export async function evaluate(
  graph: Graph,
  feeds: TensorMap,
  options?: SessionOptions,
): Promise<Record<string, Tensor>> {
  const session = await createSession(graph, options);
  try {
    return await session.run(feeds);
  } finally {
    await session.release();
  }
}
