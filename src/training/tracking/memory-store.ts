import { TunesmithError } from "../../errors/index.js";
import type { Artifact, MetricPoint, RunRecord, RunStore } from "./types.js";

interface Kept {
  run: RunRecord;
  readonly points: Map<string, MetricPoint>;
  readonly artifacts: Map<string, Artifact>;
}

/**
 * A store of runs in memory, for pages and tests.
 *
 * @example
 * ```ts
 * import { memoryRunStore } from "tunesmith/training";
 * const store = memoryRunStore();
 * console.log(await store.list()); // []
 * ```
 */
export function memoryRunStore(): RunStore {
  const runs = new Map<string, Kept>();
  const kept = (id: string): Kept => {
    const found = runs.get(id);
    if (found) return found;
    throw new TunesmithError("run-not-found", `there is no run ${id}`, { fix: "create it first" });
  };
  return {
    location: "memory",
    async create(run) {
      const progress = { status: "running", heartbeatAt: run.createdAt, step: 0, summary: {} } as const;
      const record = { ...run, ...progress, finishedAt: undefined, error: undefined };
      runs.set(run.id, { run: record, points: new Map(), artifacts: new Map() });
    },
    async record(id, points, update) {
      const at = kept(id);
      for (const point of points) at.points.set(`${point.name}\n${point.step}`, point);
      at.run = { ...at.run, ...update };
    },
    async dropAfter(id, step) {
      const { points } = kept(id);
      for (const [key, point] of points) if (point.step > step) points.delete(key);
    },
    async addArtifact(id, artifact) {
      kept(id).artifacts.set(artifact.path, artifact);
    },
    list: async () => [...runs.values()].map(({ run }) => run).sort((a, b) => b.createdAt - a.createdAt),
    metrics: async (id, names) =>
      [...kept(id).points.values()]
        .filter(({ name }) => !names || names.includes(name))
        .sort((a, b) => (a.name === b.name ? a.step - b.step : a.name < b.name ? -1 : 1)),
    artifacts: async (id) => [...kept(id).artifacts.values()].sort((a, b) => a.createdAt - b.createdAt),
    async remove(ids) {
      for (const id of ids) runs.delete(id);
    },
    async close() {},
  };
}
