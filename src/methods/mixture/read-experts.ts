import type { Model } from "../../models/index.js";
import type { Adapter } from "../adapter.js";
import { loadPeft } from "../peft/load.js";

/** A copy of an adapter that is on a model: training one does not touch the other. */
const copied = (adapter: Adapter): Adapter => ({
  ...adapter,
  sites: new Map(
    [...adapter.sites].map(([path, site]) => {
      const tensors = Object.entries(site.tensors).map(([key, entry]) => {
        const data = (entry.tensor.data as Float32Array).slice();
        return [key, { ...entry, tensor: { ...entry.tensor, data } }] as const;
      });
      return [path, { ...site, tensors: Object.fromEntries(tensors) }] as const;
    }),
  ),
});

/** A folder of an adapter, or one that is on a model. */
export type ExpertSource = string | Adapter;

export const expertName = (expert: ExpertSource): string =>
  typeof expert === "string" ? expert : expert.name;

/** Experts read for a model, those on one copied. */
export const readExperts = (base: Model, experts: readonly ExpertSource[]): Promise<Adapter[]> =>
  Promise.all(
    experts.map((expert, at) =>
      typeof expert === "string" ? loadPeft(base, expert, { name: String(at) }) : copied(expert),
    ),
  );
