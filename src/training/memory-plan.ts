import {
  constantsOf,
  type Graph,
  lowerMarkers,
  type Node,
  nodesOf,
  staticShape,
  type Value,
} from "../graph/index.js";
import { PREPACK_BYTES, processMemory, type SessionOptions } from "../runtime/index.js";
import { foldedNodes, isFixed } from "./fixed-nodes.js";
import { evaluationGraph, prefixGraphs, stepGraph } from "./graph.js";
import { bytesOf, runBytes } from "./memory-arena.js";
import type { Objective, StepShape } from "./objective.js";
import { type Optimizer, stateFactor } from "./optim/index.js";

/** What a training run will take, in bytes, beyond what the process holds before its first step. */
export interface MemoryPlan {
  /** Frozen weights, as the runtime holds them: pages of their files, which the system can take back. */
  readonly weights: number;
  /** Copies of weights that the runtime makes: repacked for its kernels, or computed from others when it starts. */
  readonly packed: number;
  /** Trainable and other fed parameters, as they are copied to the runtime. */
  readonly parameters: number;
  /** Gradients that are returned, and their sum when batches are accumulated. */
  readonly gradients: number;
  /** What the optimiser keeps between steps. */
  readonly optimizer: number;
  /** The runtime's memory inside a step: activations, temporaries, and what lies unused between them. */
  readonly activations: number;
  /** The same of the sessions that evaluate. */
  readonly evaluation: number;
  /** The best parameters that early stopping keeps. */
  readonly best: number;
  /** Activations kept between epochs. */
  readonly prefixCache: number;
  /** Parameters and gradients on their way between threads, and what is not collected yet of earlier ones. */
  readonly transfers: number;
  /** The runtime itself: its thread, its code, what it knows about every node of the graphs. */
  readonly runtime: number;
  /** Sum of the above. */
  readonly total: number;
  /** What the process holds already, and with the total the predicted peak. Undefined where a page cannot know. */
  readonly inUse: number | undefined;
  readonly peak: number | undefined;
}

export interface MemoryPlanOptions {
  /** Other shapes of the run: each has a session of its own. */
  readonly shapes?: readonly StepShape[];
  /** Blocks that are recomputed in the backward pass. Default false. */
  readonly recompute?: boolean | number | undefined;
  /** Rows of logits that exist at one time. Default: the objective's. */
  readonly chunkRows?: number | undefined;
  /** Default: one that keeps two numbers for every trained one, as Adam does. */
  readonly optimizer?: Optimizer | undefined;
  /** Batches whose gradients are summed. Default 1. */
  readonly accumulate?: number | undefined;
  /** Whether the best parameters are kept, as `patience` does. */
  readonly keepsBest?: boolean | undefined;
  /** Updates of the run: more than a few leave memory to be collected. Default: many. */
  readonly steps?: number | undefined;
  /** Bytes of activations kept in memory. Default 0. */
  readonly prefixCacheBytes?: number | undefined;
  /** Bytes the process holds already. Default: as it is now; give it where several plans are compared. */
  readonly inUse?: number | undefined;
  /** How the run's sessions are made; prepacking takes memory. */
  readonly session?: SessionOptions | undefined;
}

/**
 * A session's nodes, kernels and names, and a process's thread for it; measured with onnxruntime-node 1.30 on Linux.
 * They do not depend on the sizes of tensors.
 */
const [NODE_BYTES, WORKER_BYTES] = [14_000, 44 * 2 ** 20];
/** What V8 lets pile up before it collects arrays: measured over hundreds of steps. */
const UNCOLLECTED_BYTES = 48 * 2 ** 20;

/**
 * Predicts the memory of training before its first step, from the graphs alone. Inside a step it follows ONNX Runtime's
 * rules: its order of nodes, its reuse of buffers, its arena (`memory-arena.ts`). `bench/memory.ts` measures it: the
 * predicted peak lies within 15 % of the peak of a process in Node.
 *
 * @param shape The largest batch shape of the run.
 *
 * @example
 * ```ts
 * import { adapt, lora } from "tunesmith/methods";
 * import { loadModel } from "tunesmith/models";
 * import { memoryPlan, nextToken } from "tunesmith/training";
 * const model = await adapt(await loadModel("path/to/model"), lora());
 * const objective = nextToken(model, { batchSize: 4, lengths: [128], padId: 0 });
 * console.log(memoryPlan(objective, { batch: 4, length: 128 }).total);
 * ```
 */
export function memoryPlan(
  objective: Objective,
  shape: StepShape,
  options: MemoryPlanOptions = {},
): MemoryPlan {
  const { prefixCacheBytes = 0, accumulate = 1, keepsBest = false } = options;
  const { model } = objective;
  const shapes = [shape, ...(options.shapes ?? [])];
  const training = shapes.flatMap((each) => trainingGraphs(objective, each, options));
  const evaluating = objective.validation
    ? shapes.map((each) => lowerMarkers(evaluationGraph(objective, each).graph))
    : [];
  const parts = [...training, ...evaluating].map((graph) => sessionOf(graph, options.session));
  const trained = [...model.parameters.values()].filter(({ trainable }) => trainable);
  const one = sum(trained.map(({ value }) => bytesOf(value)));
  const plan = {
    weights: sum([...new Set(parts.flatMap(({ mapped }) => mapped))].map(bytesOf)),
    packed: sum(parts.map(({ packed }) => packed)),
    parameters: sum([...model.parameters.values()].map(({ value }) => bytesOf(value))),
    gradients: one * (accumulate > 1 ? 2 : 1),
    optimizer: Math.round((options.optimizer ? stateFactor(options.optimizer) : 2) * one),
    activations: sum(training.map(runBytes)),
    evaluation: sum(evaluating.map(runBytes)),
    best: keepsBest ? one : 0,
    prefixCache: prefixCacheBytes,
    transfers: transferBytes(
      options,
      4 * sum([...model.parameters.values()].map(({ tensor }) => tensor.data.length)),
      one,
    ),
    runtime: WORKER_BYTES + sum(parts.map(({ nodes }) => nodes * NODE_BYTES)),
  };
  const total = sum(Object.values(plan));
  const inUse = options.inUse ?? processMemory();
  return { ...plan, total, inUse, peak: inUse === undefined ? undefined : inUse + total };
}

const sum = (values: readonly number[]): number => values.reduce((a, b) => a + b, 0);

/** Every update posts the parameters to the worker, which unpacks a copy, and gets new gradients. */
function transferBytes(
  { steps = Number.POSITIVE_INFINITY, session }: MemoryPlanOptions,
  parameters: number,
  gradients: number,
) {
  const each = (session?.worker === false ? 0 : 2 * parameters) + gradients;
  return Math.min(each * steps, Math.max(each, UNCOLLECTED_BYTES));
}

/** The graphs that a shape's batches run: one step, or its frozen lower part and the rest. */
function trainingGraphs(objective: Objective, shape: StepShape, options: MemoryPlanOptions): Graph[] {
  const { recompute = false, chunkRows, prefixCacheBytes = 0 } = options;
  const how = { recompute, chunkRows };
  const parts = prefixCacheBytes > 0 ? prefixGraphs(objective, shape, how) : undefined;
  const graphs = parts ? [parts.suffix.graph, parts.prefix] : [stepGraph(objective, shape, how).graph];
  return graphs.map(lowerMarkers);
}

interface SessionParts {
  readonly nodes: number;
  /** Copies of weights. */
  readonly packed: number;
  /** Weights that are read where they lie. */
  readonly mapped: readonly Value[];
}

/** What a session holds besides the memory of its runs. */
function sessionOf(graph: Graph, options: SessionOptions = {}): SessionParts {
  const nodes = nodesOf(graph);
  const constants = constantsOf(graph);
  const prepack = options.prepack ?? sum(constants.map(bytesOf)) <= PREPACK_BYTES;
  const fixed = foldedNodes(nodes);
  const running = nodes.filter((node) => !fixed.has(node));
  // One copy per order in which a factor is read, whoever reads it; the original goes when nobody else does.
  const copies = new Map<string, number>();
  const read = new Set<Value>();
  for (const node of running) {
    const packed = prepack && packs(node) ? node.inputs[1] : undefined;
    if (packed && isFixed(packed, fixed)) {
      copies.set(`${packed.id}/${node.op}/${transposed(node)}`, bytesOf(packed));
    }
    for (const value of node.inputs) if (value && value !== packed && isFixed(value, fixed)) read.add(value);
  }
  const folded = [...read].filter(({ source }) => source.kind === "node");
  return {
    nodes: nodes.length,
    packed: sum([...copies.values(), ...folded.map(bytesOf)]),
    mapped: [...read].filter(({ source }) => source.kind === "constant"),
  };
}

/** Products whose kernels keep their second factor, a matrix, in an order of their own. */
const packs = ({ op, inputs }: Node): boolean =>
  (op === "Gemm" || op === "MatMul") && inputs[1] !== undefined && staticShape(inputs[1].shape)?.length === 2;

function transposed({ attrs }: Node): boolean {
  const attr = attrs.transB;
  return attr !== undefined && "i" in attr && Number(attr.i) === 1;
}
