import type { HookSite } from "../method.js";

/** Smoothed sensitivity of every entry of a tensor, and how much it varies. */
export interface Importance {
  readonly mean: Float32Array;
  readonly uncertainty: Float32Array;
}

const PARTS = ["lora_A", "lora_E", "lora_B"] as const;

export const nameOf = (site: HookSite, part: (typeof PARTS)[number]): string =>
  site.tensors[part]?.name ?? "";
export const rankOf = (site: HookSite): number => site.tensors.lora_E?.tensor.shape[0] as number;

/** Adds up the gradients of the triplets over the micro-batches of an update. */
export function addGradients(
  total: Map<string, Float32Array>,
  sites: readonly HookSite[],
  found: ReadonlyMap<string, Float32Array>,
): void {
  const names = sites.flatMap((site) => PARTS.map((part) => nameOf(site, part)));
  addUp(total, names, found);
}

/** The same for tensors by name. */
export function addUp(
  total: Map<string, Float32Array>,
  names: Iterable<string>,
  found: ReadonlyMap<string, Float32Array>,
): void {
  for (const name of names) {
    const gradient = found.get(name);
    if (gradient) total.set(name, sum(total.get(name), gradient));
  }
}

const sum = (before: Float32Array | undefined, added: Float32Array): Float32Array =>
  before ? before.map((value, at) => value + (added[at] as number)) : added.slice();

/** |w·∂L/∂w| smoothed, and how far it lies from that (equations 8 to 10). */
export function updateImportance(
  scores: Map<string, Importance>,
  gradients: ReadonlyMap<string, Float32Array>,
  params: ReadonlyMap<string, Float32Array>,
  { beta1, beta2 }: { readonly beta1: number; readonly beta2: number },
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
export function tripletScores(
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

/** For checkpoints, as plain data. */
export const writtenImportance = (scores: ReadonlyMap<string, Importance>): unknown =>
  [...scores].map(([name, { mean, uncertainty }]) => [name, [...mean], [...uncertainty]]);

export function readImportance(scores: Map<string, Importance>, saved: unknown): void {
  scores.clear();
  for (const [name, mean, uncertainty] of saved as [string, number[], number[]][])
    scores.set(name, { mean: Float32Array.from(mean), uncertainty: Float32Array.from(uncertainty) });
}
