import type { PlainData } from "../../training/index.js";
import type { RunConfig } from "./prepare-run.js";

/** What decides a run's numbers; a resumed run must have the same. */
export function runIdentity(config: RunConfig, steps: number): Record<string, PlainData> {
  const free = new Set([
    ...[
      "out",
      "runDir",
      "resume",
      "dryRun",
      "threads",
      "evalEvery",
      "saveEvery",
      "patience",
      "prefixCache",
      "recompute",
      "recomputeBlocks",
      "prepack",
      "memory",
      "findLr",
      "stopOn",
      "stopMode",
    ],
    ...["epochs", "model", "data", "validation", "referenceScores", "teacherLogits", "teacherTop"],
    ...["track", "runName", "tensorboard", "card", "license"],
  ]);
  const kept = Object.entries(config).filter(([key, value]) => !free.has(key) && value !== undefined);
  return { ...(Object.fromEntries(kept) as Record<string, PlainData>), steps };
}
