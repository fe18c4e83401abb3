import { z } from "zod";
import type { Model, TrainingHooks } from "../../models/index.js";
import { parseConfig } from "../config.js";
import { type Unfrozen, unfreeze } from "../full.js";
import { combinedHooks } from "../hooks.js";
import { baseNumbers } from "./patch.js";
import { keepOnly, largest, largestOf } from "./places.js";

export const selektSchema = z.strictObject({
  select: z
    .string()
    .optional()
    .describe("weights to train: a regular expression searched in their names; default: all"),
  alpha: z
    .number()
    .min(0)
    .max(1)
    .default(0.05)
    .describe("share of each weight's entries that may differ from the base"),
  every: z
    .number()
    .int()
    .positive()
    .default(50)
    .describe("updates between projections; there is one at the end besides. The paper's: an epoch"),
  scope: z
    .enum(["tensor", "global"])
    .default("tensor")
    .describe("whether the share is of every weight by itself or of all together"),
});
export type SelektConfig = z.infer<typeof selektSchema>;

/** One projection: how many entries differ now, and how many of them did not after the one before. */
export interface Projection {
  readonly step: number;
  readonly kept: number;
  readonly entered: number;
}

/** An unfrozen model that is projected while it trains. */
export type Selekted<M extends Model> = Unfrozen<M> & {
  /** Of the run that trains it, or did last. */
  readonly projections: readonly Projection[];
};

/**
 * SeleKT (arXiv 2503.03656): all weights are trained, and now and then all but the entries that are farthest from the base go
 * back to it, the optimiser's state untouched. What is left is a sparse patch (`patchOf`) whose places were free to
 * change during training.
 *
 * Throws `target-not-found`, `config-invalid`.
 *
 * @example
 * ```ts
 * import { patchOf, selekt } from "tunesmith/methods";
 * import type { CausalLm } from "tunesmith/models";
 * import { adamw, fit, type Objective } from "tunesmith/training";
 * export async function patch(base: CausalLm, objective: (model: CausalLm) => Objective) {
 *   const model = await selekt(base, { alpha: 0.05, every: 100 });
 *   await fit(objective(model), { steps: 1000, optimizer: adamw({ lr: 1e-5 }) });
 *   return patchOf(model);
 * }
 * ```
 */
export async function selekt<M extends Model>(
  base: M,
  given: z.input<typeof selektSchema> = {},
): Promise<Selekted<M>> {
  const config = parseConfig("selekt", selektSchema, given);
  const model = await unfreeze(base, config.select === undefined ? {} : { select: config.select });
  const projections: Projection[] = [];
  const below = model.trainingHooks;
  return {
    ...model,
    projections,
    trainingHooks: () => combinedHooks([below?.() ?? {}, projecting(model, config, projections)]),
  } as unknown as Selekted<M>;
}

function projecting(model: Unfrozen, config: SelektConfig, log: Projection[]): TrainingHooks {
  let before: readonly Uint32Array[] | undefined;
  log.length = 0;
  return {
    async afterUpdate({ step, steps }) {
      if (step % config.every !== 0 && step !== steps) return;
      const kept = await project(model, config);
      const sum = (all: readonly { readonly length: number }[]) =>
        all.reduce((a, { length }) => a + length, 0);
      const known = before?.map((places) => new Set(places));
      const entered = known
        ? kept.map((places, at) => places.filter((place) => !known[at]?.has(place)))
        : kept;
      log.push({ step, kept: sum(kept), entered: sum(entered) });
      before = kept;
    },
    state: () => ({ log: [...log] }),
    restore: (state) => void log.splice(0, log.length, ...(state as { log: Projection[] }).log),
  };
}

/** θ becomes θ₀ + m ⊙ (θ − θ₀) with m on the largest differences; gives the places kept, which keep their bits. */
async function project({ unfrozen, base }: Unfrozen, { alpha, scope }: SelektConfig): Promise<Uint32Array[]> {
  const weights = [...unfrozen].map(([name, { tensor }]) => ({ name, data: tensor.data as Float32Array }));
  const starts = await Promise.all(weights.map(({ name }) => baseNumbers(base, name)));
  const moves = weights.map(({ data }, index) =>
    data.map((value, at) => value - Number(starts[index]?.[at])),
  );
  const total = moves.reduce((sum, { length }) => sum + length, 0);
  const places =
    scope === "global"
      ? largestOf(moves, Math.floor(alpha * total))
      : moves.map((move) => largest(move, Math.floor(alpha * move.length)));
  return weights.map(({ data }, index) => {
    const changed = (places[index] as Uint32Array).filter((at) => moves[index]?.[at] !== 0);
    keepOnly(data, changed, starts[index]);
    return changed;
  });
}
