import { type Graph, input, makeGraph, type Value } from "../../graph/index.js";
import type { Tensor } from "../../tensor/index.js";
import { inputsOf } from "../feeds.js";
import type { AnyModel, Model, TensorModel } from "../types.js";
import { causalLmGraph } from "./causal-lm.js";
import { type AdapterWeights, bindParameters } from "./parameters.js";

export interface GraphOptions {
  /**
   * Causal language models with a key/value cache: inputs `past_key_values.N.key/value` `[batch, kvHeads, past, headDim]` (`past`
   * may be 0), outputs `present.N.key/value`; `attention_mask` then covers past and new tokens. Default false.
   */
  readonly cache?: boolean;
  /** What becomes of adapters. Default `merged`. */
  readonly adapters?: AdapterWeights;
}

/** A graph for a file, and what inputs of it hold when they are not fed. */
export interface FileGraph {
  readonly graph: Graph;
  /** Adapter weights that are inputs, by input. */
  readonly tensors: ReadonlyMap<Value, Tensor>;
}

/**
 * The model as a graph with the inputs and outputs its community knows, all varying axes symbolic. A causal language
 * model reads `input_ids`, `attention_mask` and `position_ids`, int64 `[batch, sequence]`, and gives `logits` float32 `[batch,
 * sequence, vocab]`, as transformers.js and Optimum have it; others read and give what `inputs` and `build` name. What the model reads
 * besides (adapters) becomes a constant as it is now, unless `adapters` says otherwise.
 *
 * Throws `config-invalid` for a cache that the model has none of.
 *
 * @example
 * ```ts
 * import { exportGraph, loadModel } from "tunesmith/models";
 * import { saveOnnx } from "tunesmith/graph";
 * const graph = exportGraph(await loadModel("path/to/model"));
 * await saveOnnx(graph, "model.onnx");
 * ```
 */
export const exportGraph = (model: Model, options: GraphOptions = {}): Graph =>
  fileGraph(model, options).graph;

/** As `exportGraph`, with what the inputs of adapters hold. */
export const fileGraph = (model: Model, options: GraphOptions = {}): FileGraph =>
  model.task === "causal-lm" ? causalLmGraph(model, options) : tensorGraph(model, options);

/** The axis of examples is called as programs that make empty caches look for it. */
export const axisName = (dim: number | string): number | string => (dim === "batch" ? "batch_size" : dim);

/** Inputs of a tensor model by name. Files keep the axes they came with. */
export const modelInputs = (model: TensorModel): Map<string, Value> =>
  new Map(
    model.inputs.map(({ name, dtype, shape }) => {
      const axes = model.architecture === "onnx" ? shape : shape.map(axisName);
      return [name, input(name, dtype, axes)];
    }),
  );

function tensorGraph(model: TensorModel, { adapters = "merged" }: GraphOptions): FileGraph {
  const values = modelInputs(model);
  const built = bindParameters(
    model as AnyModel,
    model.build({ values: Object.fromEntries(values) }),
    adapters,
  );
  return finished(model, [...values.values()], Object.entries(built.outputs.values), built.tensors);
}

/** The declared inputs first, even those without a use, as callers feed all; then the parameters that are read. */
export function finished(
  { architecture }: Pick<AnyModel, "architecture">,
  declared: readonly Value[],
  outputs: readonly (readonly [string, Value])[],
  tensors: ReadonlyMap<Value, Tensor>,
): FileGraph {
  const known = new Set(declared);
  const others = inputsOf(outputs.map(([, value]) => value)).filter((value) => !known.has(value));
  return { graph: makeGraph(architecture, [...declared, ...others], outputs), tensors };
}
