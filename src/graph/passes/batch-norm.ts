import { TunesmithError } from "../../errors/index.js";
import { describe, makeNode, withScope } from "../create.js";
import { decompositionOf } from "../decompose/index.js";
import { rewrite } from "../rewrite.js";
import type { Graph, Node, Value } from "../types.js";

/** `eval`: running statistics; `train`: those of the batch, running ones updated; `adapt`: those of the batch. */
export type BatchNormMode = "eval" | "train" | "adapt";

export interface BatchNormOptions {
  /** Which nodes change; default all. The others stay as they are. */
  readonly which?: (node: Node) => boolean;
  /** Share of the old running statistics in the new ones, of 0 to 1; default: what each node says (ONNX: 0.9). */
  readonly momentum?: number;
}

/** Running statistics of one normalisation. */
export interface RunningStatistics {
  /** Module path of the normalisation. */
  readonly scope: string;
  /** What the graph starts from, `[channels]`. */
  readonly mean: Value;
  readonly variance: Value;
  /** Outputs of the new graph that hold the updated ones. */
  readonly nextMean: string;
  readonly nextVariance: string;
}

export interface BatchNormGraph {
  readonly graph: Graph;
  /** One per normalisation that updates; empty unless the mode is `train`. */
  readonly statistics: readonly RunningStatistics[];
}

/**
 * Says what batch normalisation normalises by. `eval` freezes the running statistics of the file. `train` uses mean and
 * variance of the batch and adds outputs with the new running statistics, `<name>.next`, to be fed or stored by the caller:
 * `old·momentum + batch·(1 - momentum)`, the variance over all elements as ONNX defines it (PyTorch's running variance is
 * larger by n/(n - 1)). `adapt` uses the batch and keeps nothing, as in test-time adaptation (arXiv:2006.10963).
 *
 * Throws `config-invalid` for a momentum outside 0 to 1.
 *
 * @example
 * ```ts
 * import { batchNormMode, loadOnnx } from "tunesmith/graph";
 * const { graph } = await loadOnnx("resnet.onnx");
 * const { graph: training, statistics } = batchNormMode(graph, "train");
 * console.log(training.outputs.size, statistics.map(({ nextMean }) => nextMean));
 * ```
 */
export function batchNormMode(
  graph: Graph,
  mode: BatchNormMode,
  options: BatchNormOptions = {},
): BatchNormGraph {
  const { which = () => true, momentum } = options;
  if (momentum !== undefined && !(momentum >= 0 && momentum <= 1)) {
    throw new TunesmithError("config-invalid", `momentum ${momentum} is not a number from 0 to 1`, {
      fix: "give the share of the old running statistics, such as 0.9",
    });
  }
  const statistics: RunningStatistics[] = [];
  const added: [string, Value][] = [];
  const taken = new Set([...graph.outputs.keys(), ...graph.inputs.map((value) => String(value.name))]);
  const result = rewrite(graph, {
    visit(node, inputs) {
      if (node.op !== "BatchNormalization" || node.domain !== "" || !which(node)) return undefined;
      if (mode === "eval") return evaluating(node, inputs);
      const [y, mean, variance] = batchStatistics(node, inputs, momentum);
      if (mode === "train") {
        const before = [inputs[3], inputs[4]] as [Value, Value];
        const names = before.map((value, at) => nameFor(value, node, at, taken)) as [string, string];
        added.push([names[0], mean], [names[1], variance]);
        statistics.push({
          scope: node.scope,
          mean: before[0],
          variance: before[1],
          nextMean: names[0],
          nextVariance: names[1],
        });
      }
      // What reads the node's own running statistics gets the ones that this mode leaves.
      return mode === "train" ? [y, mean, variance] : [y, inputs[3] as Value, inputs[4] as Value];
    },
  });
  return { graph: { ...result, outputs: new Map([...result.outputs, ...added]) }, statistics };
}

type Inputs = readonly (Value | undefined)[];

function evaluating(node: Node, inputs: Inputs): readonly Value[] {
  const { training_mode: _, ...attrs } = node.attrs;
  const made = makeNode("BatchNormalization", inputs, attrs, {
    name: node.name,
    scope: node.scope,
    outputNames: node.outputs.map((value) => value.name),
    outputs: 1,
  });
  return [made.outputs[0] as Value, inputs[3] as Value, inputs[4] as Value];
}

/** In plain operators: inference builds of the runtime cannot train this one on every backend. */
function batchStatistics(
  node: Node,
  inputs: Inputs,
  momentum: number | undefined,
): readonly [Value, Value, Value] {
  return withScope(node.scope, () => {
    const attrs = {
      ...node.attrs,
      training_mode: { i: 1 },
      ...(momentum === undefined ? {} : { momentum: { f: momentum } }),
    };
    const training = makeNode("BatchNormalization", inputs, attrs, { outputs: 3 });
    const parts = decompositionOf(training)?.(inputs, training);
    if (parts?.[0] && parts[1] && parts[2]) return [parts[0], parts[1], parts[2]];
    throw new TunesmithError("graph-invalid", `${describe(node)} cannot be trained`);
  });
}

function nameFor(value: Value, node: Node, at: number, taken: Set<string>): string {
  const base = value.name || `${node.scope || "batch_norm"}.${at === 0 ? "running_mean" : "running_var"}`;
  let name = `${base}.next`;
  for (let count = 2; taken.has(name); count++) name = `${base}.next_${count}`;
  taken.add(name);
  return name;
}
