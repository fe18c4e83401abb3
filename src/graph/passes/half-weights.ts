import { castTensor, readTensor, type Tensor } from "../../tensor/index.js";
import { constant } from "../create.js";
import { cast } from "../ops/index.js";
import { rewrite } from "../rewrite.js";
import { constantsOf } from "../traverse.js";
import type { Graph, Value } from "../types.js";

/** Smaller constants save nothing and may be thresholds or scales. */
const LEAST = 1024;
/** Largest float16. */
const LIMIT = 65504;

/**
 * The graph with its float32 weights stored as float16 and cast back where they are read: half the file, the same
 * arithmetic. Small constants, and those beyond the range of float16, stay as they are. One weight is read at a time.
 *
 * @example
 * ```ts
 * import { halfWeights, loadOnnx, saveOnnx } from "tunesmith/graph";
 * const { graph, close } = await loadOnnx("model.onnx");
 * await saveOnnx(await halfWeights(graph), "model_fp16.onnx");
 * await close();
 * ```
 */
export async function halfWeights(graph: Graph): Promise<Graph> {
  const replace = new Map<Value, Value>();
  for (const value of constantsOf(graph)) {
    if (value.source.kind !== "constant" || value.dtype !== "float32") continue;
    if ((value.shape as readonly number[]).reduce((a, b) => a * b, 1) < LEAST) continue;
    const read = await readTensor(value.source.data);
    if (fits(read)) replace.set(value, cast(constant(castTensor(read, "float16"), value.name), "float32"));
  }
  return rewrite(graph, { replace });
}

const fits = ({ data }: Tensor): boolean => (data as Float32Array).every((x) => Math.abs(x) <= LIMIT);
