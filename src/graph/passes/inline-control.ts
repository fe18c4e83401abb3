import { TunesmithError } from "../../errors/index.js";
import type { Tensor } from "../../tensor/index.js";
import { constant, withScope } from "../create.js";
import { MAX_ROUNDS, withoutControl } from "../decompose/control.js";
import { rewrite, substitute } from "../rewrite.js";
import { subgraphs } from "../traverse.js";
import type { Graph, Node, Value } from "../types.js";

export interface InlineOptions {
  /** Loops of more rounds than this stay loops; default 256. */
  readonly maxRounds?: number;
}

/**
 * Replaces control flow whose course is known: an If with a constant condition becomes the branch it takes, a Loop or
 * Scan of known length its rounds one after the other. What depends on a feed stays as it is.
 *
 * @example
 * ```ts
 * import { inlineControlFlow, loadOnnx, specialise } from "tunesmith/graph";
 * const { graph } = await loadOnnx("model.onnx");
 * const plain = inlineControlFlow(specialise(graph, { batch: 4 }));
 * console.log(plain.outputs.size);
 * ```
 */
export function inlineControlFlow(graph: Graph, options: InlineOptions = {}): Graph {
  const { maxRounds = MAX_ROUNDS } = options;
  let changed = true;
  let result = graph;
  // A condition in a loop's body may be known only once the loop is unrolled.
  while (changed) {
    changed = false;
    result = rewrite(result, {
      visit(node, inputs, rebuild) {
        if (subgraphs(node).length === 0) return undefined;
        const current = rebuild()[0]?.source;
        if (current?.kind !== "node") return undefined;
        const plain = withScope(node.scope, () => withoutControl(current.node, inputs, maxRounds));
        if (!plain || !isComplete(plain, node)) return undefined;
        changed = true;
        return plain;
      },
    });
  }
  return result;
}

const isComplete = (values: readonly (Value | undefined)[], node: Node): values is readonly Value[] =>
  values.length >= node.outputs.length && values.every((value) => value !== undefined);

/**
 * Makes inputs constants and takes the branches they decide: of a file with several models in one, such as a "merged"
 * decoder with and without cache, what is left is the one asked for. Inputs that only the other branches read stay in
 * the list; `prune` removes them.
 *
 * @param values Tensors by input name.
 * Throws `tensor-not-found` for an unknown input and `shape-mismatch` for a tensor that does not fit it.
 *
 * @example
 * ```ts
 * import { bindInputs, loadOnnx, prune } from "tunesmith/graph";
 * import { tensor } from "tunesmith/tensor";
 * const { graph } = await loadOnnx("decoder_model_merged.onnx");
 * const first = prune(bindInputs(graph, { use_cache_branch: tensor("bool", [1], [0]) }));
 * console.log(first.inputs.map((value) => value.name));
 * ```
 */
export function bindInputs(graph: Graph, values: Readonly<Record<string, Tensor>>): Graph {
  const replace = new Map<Value, Value>();
  for (const [name, data] of Object.entries(values)) {
    const input = graph.inputs.find((value) => value.name === name);
    if (!input) {
      throw new TunesmithError("tensor-not-found", `graph '${graph.name}' has no input '${name}'`, {
        fix: `its inputs are: ${graph.inputs.map((value) => value.name).join(", ")}`,
        details: { name },
      });
    }
    const fits =
      data.dtype === input.dtype &&
      data.shape.length === input.shape.length &&
      input.shape.every((dim, axis) => typeof dim === "string" || dim === data.shape[axis]);
    if (!fits) {
      throw new TunesmithError(
        "shape-mismatch",
        `input '${name}' is ${input.dtype}[${input.shape}], not ${data.dtype}[${data.shape}]`,
      );
    }
    replace.set(input, constant(data, name));
  }
  const left = graph.inputs.filter((value) => !replace.has(value));
  return inlineControlFlow(substitute(graph, replace, left));
}
