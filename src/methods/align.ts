import { z } from "zod";
import { TunesmithError } from "../errors/index.js";
import { constant, input, ops, type Value } from "../graph/index.js";
import {
  type AnyModel,
  type Inputs,
  type Model,
  type Outputs,
  probeOutputs,
  rowMask,
} from "../models/index.js";
import { tensor } from "../tensor/index.js";
import { type Objective, TASK_IDS } from "../training/index.js";
import { type Adapted, isAdapted } from "./adapted.js";
import type { Adapter } from "./adapter.js";
import { parseConfig } from "./config.js";
import { type TallyOptions, talliesOf } from "./tallies.js";
import { tapsOf } from "./taps.js";
import { isTarget } from "./targets.js";
import { taskDistances } from "./task-distance.js";

/** Options of `alignTasks` as data. */
export const alignmentSchema = z.strictObject({
  kind: z
    .enum(["kl", "mmd"])
    .default("kl")
    .describe("distance between tasks: of fitted Gaussians, or maximum mean discrepancy"),
  weight: z.number().min(0).default(0.2).describe("weight of the mean distance in the loss"),
  modules: z
    .union([z.string(), z.array(z.string())])
    .optional()
    .describe("adapted modules that count, as targets; default: all"),
  maskPadding: z.boolean().default(true).describe("leave padding out of the statistics"),
  minPerTask: z.number().int().min(2).default(2).describe("fewest rows of each task in a batch"),
});
export type AlignmentConfig = z.output<typeof alignmentSchema>;

export interface AlignmentOptions extends Omit<z.input<typeof alignmentSchema>, "minPerTask"> {
  /** How many tasks the batches hold. */
  readonly tasks: number;
}

/** Names of the distances among what a pass tallies. */
const TALLY = "alignment/";

/** `[positions, rows, rank]` of what A gives: rows of tokens `[rows · positions, r]`, or `[rows, r, ...space]`. */
function byPosition(h: Value, rank: number, rows: number, path: string): Value {
  if (h.shape.length > 2) {
    const own = h.shape[1] === rank ? h : ops.slice(h, 1, 0, rank);
    return ops.transpose(ops.reshape(own, [rows, rank, -1]), [2, 0, 1]);
  }
  const [total, width] = h.shape as [number, number];
  if (total % rows !== 0) {
    throw new TunesmithError(
      "target-unsupported",
      `${path}: ${total} activations are not those of ${rows} rows`,
      {
        fix: "leave the module out: alignment.modules",
      },
    );
  }
  const own = width === rank ? h : ops.slice(h, 1, 0, rank);
  return ops.transpose(ops.reshape(own, [rows, total / rows, rank]), [1, 0, 2]);
}

/** Rows of a batch. */
const rowsOf = (inputs: Inputs): number =>
  ("values" in inputs ? Object.values(inputs.values)[0]?.shape[0] : inputs.ids.shape[0]) as number;

/** The mask as `[positions, rows]`, where activations have such positions. */
function maskOf(inputs: Inputs, rows: number, positions: number): Value | undefined {
  const mask = rowMask(inputs);
  if (!mask || mask.shape[0] !== rows * positions) return undefined;
  return ops.transpose(ops.reshape(mask, [rows, positions]), [1, 0]);
}

/** Distance between tasks at each module of a pass. */
function distancesOf(
  outputs: Outputs,
  inputs: Pick<AlignmentOptions, "kind" | "maskPadding" | "tasks"> & {
    readonly of: Inputs;
    readonly ranks: ReadonlyMap<string, number>;
  },
): Map<string, Value> {
  const { of, ranks, tasks, kind = "kl", maskPadding = true } = inputs;
  const rows = rowsOf(of);
  const ids = input(TASK_IDS, "int32", [rows]);
  const each = constant(
    tensor(
      "int32",
      [tasks, 1],
      Int32Array.from({ length: tasks }, (_, at) => at),
    ),
  );
  const membership = ops.cast(ops.equal(each, ops.unsqueeze(ids, 0)), "float32");
  const found = new Map<string, Value>();
  for (const [path, h] of tapsOf(outputs)) {
    const rank = ranks.get(path);
    if (rank === undefined) continue;
    const features = byPosition(h, rank, rows, path);
    const positions = features.shape[0] as number;
    const mask = maskPadding ? maskOf(of, rows, positions) : undefined;
    found.set(path, taskDistances[kind]({ z: features, membership, mask }));
  }
  return found;
}

const mean = (values: readonly Value[]): Value =>
  ops.mul(
    values.reduce((a, b) => ops.add(a, b)),
    1 / values.length,
  );

/** Rank of A at every module that counts. */
function ranksOf(adapters: Iterable<Adapter>, modules: AlignmentOptions["modules"]): Map<string, number> {
  const ranks = new Map<string, number>();
  for (const { sites } of adapters) {
    for (const [path, { shape, tensors }] of sites) {
      const a = tensors.lora_A ?? tensors.lora_embedding_A;
      const counts =
        modules === undefined || isTarget({ path, kind: shape.kind, isHead: false }, { targets: modules });
      if (a && counts) ranks.set(path, a.tensor.shape[0] as number);
    }
  }
  return ranks;
}

/** The modules of a model whose A is compared; throws where there are none. */
function alignedModules(model: Model, modules: AlignmentOptions["modules"]): Map<string, number> {
  const adapted = isAdapted(model as Adapted) ? (model as Adapted) : undefined;
  const active = adapted?.active.flatMap((name) => adapted.adapters.get(name) ?? []) ?? [];
  const ranks = ranksOf(active, modules);
  const taps = tapsOf(probeOutputs(model));
  const known = new Map([...ranks].filter(([path]) => taps.has(path)));
  if (known.size > 0) return known;
  throw new TunesmithError(
    "target-not-found",
    `alignment: no ${modules === undefined ? "" : "such "}module has a LoRA whose A could be compared`,
    { fix: "adapt the model with lora first, and name modules among its targets" },
  );
}

/**
 * Align-LoRA (arXiv 2508.05078): the model, an ordinary LoRA on it, with a term in its loss that makes the outputs of A alike
 * for all tasks of a batch: the mean over adapted modules, and over pairs of tasks, of their distance. Merging and inference are
 * LoRA's. Batches must say which task a row is of, and hold at least two rows of each: `balance` of the objective.
 *
 * A `weight` of 0 trains what would be trained without it, bit for bit. Gradient accumulation compares the rows of each micro-batch, so that every term has its
 * gradient.
 *
 * Throws `target-not-found` when no module has a LoRA, `config-invalid` for fewer than two tasks; laying the graph of a step
 * throws `target-unsupported` for modules that do not see whole rows.
 *
 * @example
 * ```ts
 * import type { Pack } from "tunesmith/data";
 * import { adapt, alignTasks, lora } from "tunesmith/methods";
 * import { loadModel } from "tunesmith/models";
 * import { adamw, fit, nextToken } from "tunesmith/training";
 * export async function tune(train: readonly Pack[], tasks: readonly string[]) {
 *   const adapted = await adapt(await loadModel("path/to/model"), lora({ rank: 8 }));
 *   const model = alignTasks(adapted, { tasks: new Set(tasks).size, weight: 0.2 });
 *   const plan = { train, batchSize: 8, lengths: [128], padId: 0, balance: { tasks } };
 *   return fit(nextToken(model, plan), { steps: 100, optimizer: adamw({ lr: 2e-4 }) });
 * }
 * ```
 */
export function alignTasks<M extends Model>(model: M, options: AlignmentOptions): M {
  const { tasks, ...given } = options;
  const config = parseConfig("alignment", alignmentSchema, given);
  if (!Number.isInteger(tasks) || tasks < 2) {
    throw new TunesmithError("config-invalid", `alignment: ${tasks} tasks cannot be compared`, {
      fix: "train on rows of at least two tasks",
    });
  }
  const ranks = alignedModules(model, config.modules);
  const below: AnyModel = model;
  return {
    ...model,
    build(inputs: Inputs) {
      const outputs: Outputs = below.build(inputs);
      // Graphs of other shapes than a batch of rows (export, decoding) have nothing to compare.
      if (typeof rowsOf(inputs) !== "number") return outputs;
      const distances = distancesOf(outputs, { ...config, tasks, of: inputs, ranks });
      const named = [...distances].map(([path, distance]) => [`${TALLY}${path}`, distance]);
      const watched = { ...outputs, tallies: { ...outputs.tallies, ...Object.fromEntries(named) } };
      if (inputs.training !== true || config.weight === 0) return watched;
      const term = ops.mul(mean([...distances.values()]), config.weight);
      return { ...watched, penalty: outputs.penalty ? ops.add(outputs.penalty, term) : term };
    },
  } as M;
}

/** How far apart tasks are at a module. */
export interface TaskGap {
  readonly layer: string;
  readonly dist: number;
}

/**
 * How far apart the tasks are at each module of a model that `alignTasks` gave, without dropout: the mean over batches of the
 * objective's training data.
 *
 * Throws `config-invalid` for a model that it did not give, and what running the objective throws.
 *
 * @example
 * ```ts
 * import { taskGaps } from "tunesmith/methods";
 * import type { Objective } from "tunesmith/training";
 * export async function report(objective: Objective) {
 *   for (const { layer, dist } of await taskGaps(objective, { batches: 4 })) console.log(layer, dist.toFixed(3));
 * }
 * ```
 */
export async function taskGaps(objective: Objective, options: TallyOptions = {}): Promise<TaskGap[]> {
  const { batches = 16 } = options;
  const found = [...(await talliesOf(objective, { ...options, batches }))];
  return found.flatMap(([name, [sum = Number.NaN]]) =>
    name.startsWith(TALLY) ? [{ layer: name.slice(TALLY.length), dist: sum / batches }] : [],
  );
}
