import { z } from "zod";
import { TunesmithError } from "../../errors/index.js";
import { ops } from "../../graph/index.js";
import {
  type AnyModel,
  type Inputs,
  loadModel,
  type Model,
  type Outputs,
  type TrainingHooks,
} from "../../models/index.js";
import { parseConfig } from "../config.js";
import { type FullConfig, type Unfrozen, unfreeze } from "../full.js";
import { combinedHooks } from "../hooks.js";
import { baseNumbers, type SparsePatch } from "./patch.js";
import { keepOnly, largestOf } from "./places.js";

export const ltSftSchema = z.strictObject({
  select: z
    .string()
    .default("^(?!.*(norm|ln_))")
    .describe("weights with entries that may be trained: a regular expression searched in their names"),
  whole: z.string().optional().describe("weights trained whole and stored as they are, such as a new head"),
  proportion: z
    .number()
    .gt(0)
    .max(1)
    .default(0.01)
    .describe("share of the selected weights' entries that is trained"),
  count: z.number().int().positive().optional().describe("how many entries are trained, in place of a share"),
  l1: z
    .number()
    .min(0)
    .default(0)
    .describe("weight of the mean distance from the base in the loss; 0.1 for patches of a language"),
});
export type LtSftConfig = z.infer<typeof ltSftSchema>;

/** An unfrozen model of which only some entries are trained. */
export type SparselyTuned<M extends Model> = Unfrozen<M> & {
  /** Flat positions of the trained entries, by weight. */
  readonly places: ReadonlyMap<string, Uint32Array>;
  /** Weights that are trained whole. */
  readonly whole: ReadonlySet<string>;
};

export interface LtSftOptions extends z.input<typeof ltSftSchema> {
  /** The model after ordinary fine-tuning of the same weights: where it moved most, entries are trained. */
  readonly tuned: Model;
  /** A patch to go on from: its entries stay trained, and as many more are chosen. */
  readonly from?: SparsePatch;
}

/**
 * Lottery-ticket sparse fine-tuning (arXiv 2110.07560), its second phase: the entries that fine-tuning moved farthest, over all
 * selected weights together, are trained again from the base; all others stay what they are, bit for bit. Train the
 * result, take `patchOf(model, model.whole)`, and add such patches up with `composePatches`: one of a language, one of a task.
 * A task's patch is trained over the base with the patch of its language applied.
 *
 * Throws `target-not-found`, `config-invalid`, `shape-mismatch` when `tuned` is another model.
 *
 * @example
 * ```ts
 * import { freeze, ltSft, patchOf, unfreeze } from "tunesmith/methods";
 * import type { CausalLm } from "tunesmith/models";
 * import { adamw, fit, type Objective } from "tunesmith/training";
 * export async function patch(base: CausalLm, objective: (model: CausalLm) => Objective) {
 *   const [steps, optimizer] = [200, adamw({ lr: 5e-5 })];
 *   const full = await unfreeze(base);
 *   await fit(objective(full), { steps, optimizer });
 *   const sparse = await ltSft(base, { tuned: freeze(full), proportion: 0.01 });
 *   await fit(objective(sparse), { steps, optimizer });
 *   return patchOf(sparse, sparse.whole);
 * }
 * ```
 */
export async function ltSft<M extends Model>(base: M, options: LtSftOptions): Promise<SparselyTuned<M>> {
  const { tuned, from, ...given } = options;
  const config = parseConfig("lt-sft", ltSftSchema, given);
  const model = await unfreeze(base, selection(config));
  const whole = new Set(config.whole === undefined ? [] : matching(model, config.whole));
  const names = [...model.unfrozen.keys()].filter((name) => !whole.has(name));
  const starts = new Map<string, Float32Array>();
  for (const name of names) starts.set(name, await baseNumbers(base, name));
  const moves: Float32Array[] = [];
  for (const name of names) moves.push(await moved(tuned, name, starts.get(name) as Float32Array));
  const places = choosePlaces(names, moves, config, from);
  resume(model, from);
  const pulled = pulledToBase(model, config.l1);
  const own = () => combinedHooks([pulled.trainingHooks?.() ?? {}, keepOthers(starts, places)]);
  return { ...pulled, places, whole, trainingHooks: own } as unknown as SparselyTuned<M>;
}

/** The same with the tuned model's folder among plain options. */
export const ltSftFolderSchema = ltSftSchema.extend({
  tuned: z
    .string()
    .describe("folder of the model after full fine-tuning: where it moved most, entries are trained"),
});

export const ltSftOfFolder = async <M extends Model>(
  base: M,
  { tuned, ...options }: z.infer<typeof ltSftFolderSchema>,
): Promise<M> => ltSft(base, { ...options, tuned: (await loadModel(tuned, { task: base.task })) as Model });

const selection = ({ select, whole }: LtSftConfig): FullConfig => ({
  select: whole === undefined ? select : `(?:${select})|(?:${whole})`,
});

const matching = ({ unfrozen }: Unfrozen, pattern: string): string[] =>
  [...unfrozen.keys()].filter((name) => new RegExp(pattern).test(name));

async function moved(tuned: Model, name: string, start: Float32Array): Promise<Float32Array> {
  const now = await baseNumbers(tuned, name);
  if (now.length === start.length) return now.map((value, at) => value - (start[at] as number));
  throw new TunesmithError(
    "shape-mismatch",
    `'${name}' has ${now.length} numbers in the tuned model, ${start.length} in the base`,
    {
      fix: "fine-tune the same base",
    },
  );
}

/** The farthest moved entries of all weights; those of a patch to go on from besides. */
function choosePlaces(
  names: readonly string[],
  moves: readonly Float32Array[],
  { proportion, count }: LtSftConfig,
  from: SparsePatch | undefined,
): Map<string, Uint32Array> {
  const total = moves.reduce((sum, { length }) => sum + length, 0);
  const known = names.map((name) => from?.changes.get(name)?.places ?? new Uint32Array());
  for (const [index, places] of known.entries())
    for (const at of places) (moves[index] as Float32Array)[at] = 0;
  const chosen = largestOf(moves, Math.min(count ?? Math.floor(proportion * total), total));
  return new Map(
    names.map((name, index) => {
      const all = new Set([...(known[index] as Uint32Array), ...(chosen[index] as Uint32Array)]);
      return [name, Uint32Array.from(all).sort()];
    }),
  );
}

function resume({ unfrozen }: Unfrozen, from: SparsePatch | undefined): void {
  for (const [name, { places, values }] of from?.changes ?? []) {
    const data = unfrozen.get(name)?.tensor.data as Float32Array | undefined;
    if (data) for (const [k, at] of places.entries()) data[at] = (data[at] as number) + (values[k] as number);
  }
}

/** Gradients of other entries do not count, and whatever an optimiser does to them (weight decay) is undone. */
function keepOthers(
  starts: ReadonlyMap<string, Float32Array>,
  places: ReadonlyMap<string, Uint32Array>,
): TrainingHooks {
  return {
    isTrained: (name) => places.get(name)?.length !== 0,
    afterBackward(_, gradients) {
      for (const [name, chosen] of places) {
        const gradient = gradients.get(name);
        if (gradient) keepOnly(gradient, chosen);
      }
    },
    afterUpdate({ params }) {
      for (const [name, chosen] of places)
        keepOnly(params.get(name) as Float32Array, chosen, starts.get(name));
    },
  };
}

/**
 * An unfrozen model whose loss has `strength` times the mean absolute distance of its trained weights from the base, for
 * both phases of `ltSft`.
 */
export function pulledToBase<M extends Model>(model: Unfrozen<M>, strength: number): Unfrozen<M> {
  if (strength === 0) return model;
  const pairs = [...model.unfrozen].map(
    ([name, { value }]) => [value, model.base.weights.get(name)] as const,
  );
  const size = [...model.unfrozen.values()].reduce((sum, { tensor }) => sum + tensor.data.length, 0);
  const below: AnyModel = model;
  return {
    ...model,
    build(inputs: Inputs) {
      const outputs: Outputs = below.build(inputs);
      if (inputs.training !== true) return outputs;
      const distances = pairs.flatMap(([value, start]) =>
        start ? [ops.reduceSum(ops.abs(ops.sub(value, start)), undefined, false)] : [],
      );
      const term = ops.mul(
        distances.reduce((a, b) => ops.add(a, b)),
        strength / size,
      );
      return { ...outputs, penalty: outputs.penalty ? ops.add(outputs.penalty, term) : term };
    },
  } as unknown as Unfrozen<M>;
}
