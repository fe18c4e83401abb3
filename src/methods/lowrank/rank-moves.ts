import type { StepInfo, TrainingHooks } from "../../models/index.js";
import { rng } from "../../runtime/random/index.js";
import type { HookContext, HookSite } from "../method.js";
import type { ElaloraConfig } from "./elalora.js";
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

const numbers = (site: HookSite, key: string) => site.tensors[key]?.tensor.data as Float32Array;

/** Components of each module that are in use. */
export const ranksOf = (sites: readonly HookSite[]): number[] =>
  sites.map((site) => numbers(site, "lora_mask").reduce((sum, kept) => sum + kept, 0));

/** Updates at which components may move, and how many: b at first, none at the end. */
export function movesAt(
  { step, steps }: Pick<StepInfo, "step" | "steps">,
  { rankWarmup, stabilise, every, scheduler, movePerEvent }: ElaloraConfig,
): number {
  const [first, last] = [rankWarmup * steps, steps * (1 - stabilise)];
  if (step <= first || step > last || step % every !== 0) return 0;
  const done = (step - first) / (last - first);
  return scheduler ? Math.round(movePerEvent * (1 - done ** 3)) : movePerEvent;
}

/** One of a module's weakest components. */
interface Weak {
  readonly site: HookSite;
  readonly component: number;
  readonly score: number;
}

/** Scores components at every update, and moves some at events. */
export function moveRanks({ config, sites }: HookContext<ElaloraConfig>): TrainingHooks {
  const gradients = new Map<string, Float32Array>();
  const scores = new Map<string, Importance>();
  return {
    beforeUpdate: () => gradients.clear(),
    afterBackward: (_, found) => addGradients(gradients, sites, found),
    afterUpdate(at) {
      if (at.step > at.steps * (1 - config.stabilise)) {
        for (const site of sites) clearUnused(site);
        return;
      }
      updateImportance(scores, gradients, at.params, config);
      const count = movesAt(at, config);
      if (count > 0) move(weakest(sites, scores, config), count, scores, at);
      for (const site of sites) clearUnused(site);
    },
    state: () => ({
      scores: writtenImportance(scores),
      masks: sites.map((site) => [...numbers(site, "lora_mask")]),
    }),
    restore(state) {
      const saved = state as { scores: unknown; masks: number[][] };
      readImportance(scores, saved.scores);
      for (const [at, site] of sites.entries()) numbers(site, "lora_mask").set(saved.masks[at] ?? []);
    },
  };
}

/** The k weakest components of every module, which keeps at least one, by rising score. */
function weakest(
  sites: readonly HookSite[],
  scores: ReadonlyMap<string, Importance>,
  { maxPerLayer }: ElaloraConfig,
): Weak[] {
  const all = tripletScores(sites, scores);
  const pool = sites.flatMap((site) => {
    const mask = numbers(site, "lora_mask");
    const used = [...mask.keys()].filter((component) => mask[component] === 1);
    const own = used.map((component) => ({ site, component, score: all.get(site)?.[component] ?? 0 }));
    own.sort((a, b) => a.score - b.score);
    return own.slice(0, Math.min(maxPerLayer, used.length - 1));
  });
  return pool.sort((a, b) => a.score - b.score);
}

/** The lowest of the pool go; the modules of the highest get as many, as far as they have room. */
function move(
  pool: readonly Weak[],
  count: number,
  scores: ReadonlyMap<string, Importance>,
  at: StepInfo,
): void {
  const gone = pool.slice(0, count);
  for (const { site, component } of gone) {
    numbers(site, "lora_mask")[component] = 0;
    clearComponent(site, component, scores, at);
  }
  let left = gone.length;
  // The neediest first; a module without room passes its turn to the next.
  const needy = [...pool].reverse();
  for (const { site } of [...needy, ...gone]) {
    const free = numbers(site, "lora_mask").indexOf(0);
    if (left === 0 || free < 0) continue;
    addComponent(site, free, at.step);
    left--;
  }
}

/** Where the numbers of one component lie in each tensor. */
function entries(site: HookSite, component: number) {
  const { inFeatures, outFeatures } = site.shape;
  const room = rankOf(site);
  return {
    lora_A: Array.from({ length: inFeatures }, (_, j) => component * inFeatures + j),
    lora_E: [component],
    lora_B: Array.from({ length: outFeatures }, (_, i) => i * room + component),
  };
}

function clearComponent(
  site: HookSite,
  component: number,
  scores: ReadonlyMap<string, Importance>,
  at: StepInfo,
): void {
  for (const [key, places] of Object.entries(entries(site, component))) {
    const name = nameOf(site, key as "lora_A");
    const known = scores.get(name);
    for (const place of places) {
      numbers(site, key)[place] = 0;
      if (known) [known.mean[place], known.uncertainty[place]] = [0, 0];
    }
    at.forget?.(name, places);
  }
}

/** What momentum moved of components that are not in use. */
function clearUnused(site: HookSite): void {
  const mask = numbers(site, "lora_mask");
  mask.forEach((kept, component) => {
    if (kept === 1) return;
    for (const [key, places] of Object.entries(entries(site, component)))
      for (const place of places) numbers(site, key)[place] = 0;
  });
}

/** A component orthogonal to the others (as far as they are orthonormal) whose e is so small that nothing changes. */
function addComponent(site: HookSite, component: number, step: number): void {
  const [e, mask] = [numbers(site, "lora_E"), numbers(site, "lora_mask")];
  const smallest = e.reduce(
    (least, value, at) => (mask[at] === 1 ? Math.min(least, Math.abs(value)) : least),
    1e-13,
  );
  mask[component] = 1;
  e[component] = Math.max(smallest, 1e-30);
  const own = entries(site, component);
  const room = rankOf(site);
  for (const key of ["lora_A", "lora_B"] as const) {
    const data = numbers(site, key);
    const others = Array.from({ length: room }, (_, k) => entries(site, k)[key]);
    const random = rng(step, "elalora", site.shape.path, component, key);
    const z = random.fillNormal(new Float32Array(own[key].length));
    const fresh = Float64Array.from(z);
    for (const other of others) {
      const dot = other.reduce((sum, place, at) => sum + (data[place] as number) * (z[at] as number), 0);
      for (const [at, place] of other.entries())
        fresh[at] = (fresh[at] as number) - dot * (data[place] as number);
    }
    const length = Math.hypot(...fresh) || 1;
    for (const [at, place] of own[key].entries()) data[place] = (fresh[at] as number) / length;
  }
}
