import { TunesmithError } from "../../errors/index.js";
import type { StepInfo, TrainingHooks } from "../../models/index.js";
import type { HookContext, HookSite } from "../method.js";
import type { AdamssConfig } from "./adamss.js";
import {
  addUp,
  type Importance,
  readImportance,
  updateImportance,
  writtenImportance,
} from "./sensitivity.js";

/** Numbers of a site's tensor that belong to one cluster, as ranges. */
type Ranges = readonly (readonly [start: number, end: number])[];

const nameOf = (site: HookSite, key: string): string => site.tensors[key]?.name ?? "";

/** By tensor, where a cluster's directions and its rows lie. */
function rangesOf(site: HookSite, cluster: number): ReadonlyMap<string, Ranges> {
  const shape = site.tensors.adamss_A?.tensor.shape ?? [];
  const [, width = 0, rank = 0] = shape;
  const clusters = site.tensors.adamss_clusters?.tensor.data as Int32Array;
  const rows = [...clusters.keys()].filter((row) => clusters[row] === cluster);
  const size = width * rank;
  return new Map<string, Ranges>([
    [nameOf(site, "adamss_A"), [[cluster * size, (cluster + 1) * size]]],
    [nameOf(site, "adamss_B"), rows.map((row) => [row * width, (row + 1) * width])],
  ]);
}

/** Score of a cluster: the mean over its directions plus the mean over its rows of B. */
function scoreOf(ranges: ReadonlyMap<string, Ranges>, scores: ReadonlyMap<string, Importance>): number {
  let score = 0;
  for (const [name, parts] of ranges) {
    const { mean, uncertainty } = scores.get(name) as Importance;
    let [sum, count] = [0, 0];
    for (const [start, end] of parts) {
      count += end - start;
      for (let at = start; at < end; at++) sum += (mean[at] as number) * (uncertainty[at] as number);
    }
    score += count > 0 ? sum / count : 0;
  }
  return score;
}

interface Cluster {
  /** For checkpoints. */
  readonly id: string;
  readonly ranges: ReadonlyMap<string, Ranges>;
}

const clustersOf = (site: HookSite): Cluster[] =>
  Array.from({ length: site.tensors.adamss_A?.tensor.shape[0] as number }, (_, cluster) => ({
    id: `${site.shape.path}/${cluster}`,
    ranges: rangesOf(site, cluster),
  }));

/** Clusters that are still trained after `done` updates. */
function budget(done: number, total: number, keep: number, config: AdamssConfig): number {
  const left = 1 - (done - config.keepAfter) / (config.keepBefore - config.keepAfter);
  return Math.trunc(keep + Math.max(0, total - keep) * left ** config.exponent);
}

/** Adaptive allocation: between two points of a run, clusters with the lowest scores are frozen as they are. */
export function allocateSubspaces({ config, sites }: HookContext<AdamssConfig>): TrainingHooks {
  const { keep } = config;
  if (keep === undefined) return {};
  if (config.keepBefore <= config.keepAfter) {
    throw new TunesmithError("config-invalid", "adamss: keepBefore is not after keepAfter", {
      fix: "leave some updates between the two",
    });
  }
  const all = sites.flatMap(clustersOf);
  const names = all.flatMap(({ ranges }) => [...ranges.keys()]);
  const gradients = new Map<string, Float32Array>();
  const scores = new Map<string, Importance>();
  let frozen = new Set<string>();
  let kept: (() => void)[] = [];
  /** Updates before this one, while clusters are being frozen. */
  const during = ({ step }: StepInfo) =>
    step - 1 >= config.keepAfter && step - 1 <= config.keepBefore ? step - 1 : undefined;
  const choose = (done: number) => {
    const active = all.filter(({ id }) => !frozen.has(id));
    const scored = active.map((each) => ({ each, score: scoreOf(each.ranges, scores) }));
    const away = active.length - budget(done, all.length, keep, config);
    if (away > 0)
      for (const { each } of scored.sort((a, b) => a.score - b.score).slice(0, away)) frozen.add(each.id);
    scores.clear();
  };
  return {
    beforeUpdate({ params }) {
      gradients.clear();
      kept = all.filter(({ id }) => frozen.has(id)).flatMap(({ ranges }) => held(ranges, params));
    },
    afterBackward(at, found) {
      if (during(at) !== undefined) addUp(gradients, new Set(names), found);
    },
    afterUpdate(at) {
      for (const restore of kept) restore();
      const done = during(at);
      if (done === undefined) return;
      updateImportance(scores, gradients, at.params, config);
      if (done % config.interval === 0) choose(done);
    },
    state: () => ({ frozen: [...frozen], scores: writtenImportance(scores) }),
    restore(state) {
      const saved = state as { frozen: string[]; scores: unknown };
      frozen = new Set(saved.frozen);
      readImportance(scores, saved.scores);
    },
  };
}

/** What puts numbers back as they are now. */
const held = (ranges: ReadonlyMap<string, Ranges>, params: StepInfo["params"]): (() => void)[] =>
  [...ranges].flatMap(([name, parts]) => {
    const data = params.get(name) as Float32Array;
    return parts.map(([start, end]) => {
      const copy = data.slice(start, end);
      return () => data.set(copy, start);
    });
  });
