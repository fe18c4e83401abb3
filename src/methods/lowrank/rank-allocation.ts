import { TunesmithError } from "../../errors/index.js";
import type { StepInfo, TrainingHooks } from "../../models/index.js";
import type { HookContext, HookSite } from "../method.js";
import type { AdaloraConfig } from "./adalora.js";
import {
  addGradients,
  type Importance,
  nameOf,
  rankOf,
  readImportance,
  tripletScores,
  updateImportance,
  writtenImportance,
} from "./sensitivity.js";

/** Triplets that all modules may have together after a step, and whether it is one at which they are chosen. */
export function rankBudget(
  step: number,
  total: number,
  initial: number,
  target: number,
  { rankWarmup, finalSteps, interval }: Pick<AdaloraConfig, "rankWarmup" | "finalSteps" | "interval">,
): { readonly budget: number; readonly chooses: boolean } {
  if (step <= rankWarmup) return { budget: initial, chooses: false };
  if (step > total - finalSteps) return { budget: target, chooses: true };
  const left = 1 - (step - rankWarmup) / (total - finalSteps - rankWarmup);
  const budget = Math.trunc((initial - target) * left ** 3 + target);
  return { budget, chooses: step % interval === 0 || step === total - finalSteps };
}

/** Rows of E are set to zero, least important first, until the budget is met; at the end the choice stays. */
export function allocateRanks({ config, sites }: HookContext<AdaloraConfig>): TrainingHooks {
  const gradients = new Map<string, Float32Array>();
  const scores = new Map<string, Importance>();
  let masks = new Map<string, readonly boolean[]>();
  const initial = sites.reduce((sum, site) => sum + rankOf(site), 0);
  const lastOf = ({ steps }: StepInfo) => (config.totalSteps ?? steps) - config.finalSteps;
  return {
    beforeUpdate(at) {
      gradients.clear();
      if (config.rankWarmup < lastOf(at)) return;
      throw new TunesmithError(
        "config-invalid",
        `adalora: rankWarmup ${config.rankWarmup} and finalSteps ${config.finalSteps} leave no step to share out ranks`,
        {
          fix: "train for more steps, or shorten the two",
          details: { steps: config.totalSteps ?? at.steps },
        },
      );
    },
    afterBackward(at, found) {
      if (at.step >= lastOf(at)) return;
      addGradients(gradients, sites, found);
    },
    afterUpdate(at) {
      const last = lastOf(at);
      if (at.step < last) updateImportance(scores, gradients, at.params, config);
      const target = config.targetRank * sites.length;
      const { budget, chooses } = rankBudget(at.step, last + config.finalSteps, initial, target, config);
      if (at.step <= last && chooses && scores.size > 0)
        masks = choose(sites, tripletScores(sites, scores), initial - budget);
      if (at.step >= last) scores.clear();
      if (chooses) for (const [name, mask] of masks) clearRows(at.params.get(name), mask);
    },
    state: () => ({
      masks: [...masks],
      scores: writtenImportance(scores),
    }),
    restore(state) {
      const saved = state as { masks: [string, boolean[]][]; scores: unknown };
      masks = new Map(saved.masks);
      readImportance(scores, saved.scores);
    },
  };
}

/** Which rows of E stay when the `away` least important go, by the name of E. */
function choose(
  sites: readonly HookSite[],
  scores: ReadonlyMap<HookSite, Float64Array>,
  away: number,
): Map<string, readonly boolean[]> {
  const all = sites.flatMap((site) => [...(scores.get(site) ?? [])]).sort((a, b) => a - b);
  const threshold = away > 0 ? (all[away - 1] as number) : Number.NEGATIVE_INFINITY;
  return new Map(
    sites.map((site) => [
      nameOf(site, "lora_E"),
      [...(scores.get(site) ?? [])].map((score) => score > threshold),
    ]),
  );
}

function clearRows(rows: Float32Array | undefined, mask: readonly boolean[]): void {
  mask.forEach((stays, at) => {
    if (!stays && rows) rows[at] = 0;
  });
}
