import { TunesmithError } from "../../errors/index.js";
import type { StepInfo, TrainingHooks } from "../../models/index.js";
import type { HookContext, HookSite } from "../method.js";
import type { AdaloraConfig } from "./adalora.js";

/** Smoothed sensitivity of every entry of a tensor, and how much it varies. */
interface Importance {
  readonly mean: Float32Array;
  readonly uncertainty: Float32Array;
}

const PARTS = ["lora_A", "lora_E", "lora_B"] as const;

const nameOf = (site: HookSite, part: (typeof PARTS)[number]): string => site.tensors[part]?.name ?? "";
const rankOf = (site: HookSite): number => site.tensors.lora_E?.tensor.shape[0] as number;

/** Triplets that all modules may have together after a step, and whether it is one at which they are chosen. */
export function rankBudget(
  step: number,
  total: number,
  initial: number,
  target: number,
  { warmup, finalSteps, interval }: Pick<AdaloraConfig, "warmup" | "finalSteps" | "interval">,
): { readonly budget: number; readonly chooses: boolean } {
  if (step <= warmup) return { budget: initial, chooses: false };
  if (step > total - finalSteps) return { budget: target, chooses: true };
  const left = 1 - (step - warmup) / (total - finalSteps - warmup);
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
      if (config.warmup < lastOf(at)) return;
      throw new TunesmithError(
        "config-invalid",
        `adalora: warmup ${config.warmup} and finalSteps ${config.finalSteps} leave no step to share out ranks`,
        {
          fix: "train for more steps, or shorten the two",
          details: { steps: config.totalSteps ?? at.steps },
        },
      );
    },
    afterBackward(at, found) {
      if (at.step >= lastOf(at)) return;
      for (const name of sites.flatMap((site) => PARTS.map((part) => nameOf(site, part)))) {
        const gradient = found.get(name);
        if (gradient) gradients.set(name, sum(gradients.get(name), gradient));
      }
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
      scores: [...scores].map(([name, { mean, uncertainty }]) => [name, [...mean], [...uncertainty]]),
    }),
    restore(state) {
      const saved = state as { masks: [string, boolean[]][]; scores: [string, number[], number[]][] };
      masks = new Map(saved.masks);
      scores.clear();
      for (const [name, mean, uncertainty] of saved.scores)
        scores.set(name, { mean: Float32Array.from(mean), uncertainty: Float32Array.from(uncertainty) });
    },
  };
}

const sum = (before: Float32Array | undefined, added: Float32Array): Float32Array =>
  before ? before.map((value, at) => value + (added[at] as number)) : added.slice();

/** |w·∂L/∂w| smoothed, and how far it lies from that (equations 8 to 10). */
function updateImportance(
  scores: Map<string, Importance>,
  gradients: ReadonlyMap<string, Float32Array>,
  params: ReadonlyMap<string, Float32Array>,
  { beta1, beta2 }: AdaloraConfig,
): void {
  for (const [name, gradient] of gradients) {
    const { length } = gradient;
    const value = params.get(name) as Float32Array;
    const known = scores.get(name) ?? {
      mean: new Float32Array(length),
      uncertainty: new Float32Array(length),
    };
    scores.set(name, known);
    const { mean, uncertainty } = known;
    for (let at = 0; at < length; at++) {
      const now = Math.abs((value[at] as number) * (gradient[at] as number));
      mean[at] = beta1 * (mean[at] as number) + (1 - beta1) * now;
      const gap = Math.abs(now - (mean[at] as number));
      uncertainty[at] = beta2 * (uncertainty[at] as number) + (1 - beta2) * gap;
    }
  }
}

/** Score of every triplet of a site: that of its e, plus the means over its row of A and its column of B. */
function tripletScores(
  sites: readonly HookSite[],
  scores: ReadonlyMap<string, Importance>,
): Map<HookSite, Float64Array> {
  return new Map(
    sites.map((site) => {
      const rank = rankOf(site);
      const total = new Float64Array(rank);
      for (const part of PARTS) {
        const found = scores.get(nameOf(site, part));
        if (!found) continue;
        const { length } = found.mean;
        for (let at = 0; at < length; at++) {
          const triplet = part === "lora_B" ? at % rank : Math.floor((at * rank) / length);
          const score = (found.mean[at] as number) * (found.uncertainty[at] as number);
          total[triplet] = (total[triplet] as number) + (score * rank) / length;
        }
      }
      return [site, total];
    }),
  );
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
