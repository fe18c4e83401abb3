import type { FitOptions } from "../../training/index.js";
import { bytesIn } from "../config/flags.js";
import { sessionOf } from "../work.js";
import type { RunConfig } from "./prepare-run.js";

/** What a configuration says about the steps themselves, whoever runs them. */
export const stepOptions = (config: RunConfig) =>
  ({
    accumulate: config.accumulate,
    seed: config.seed,
    session: sessionOf(config),
    recompute: config.recomputeBlocks ?? config.recompute,
    chunkRows: config.chunkRows,
    prefixCacheBytes: bytesIn(config.prefixCache),
    ...(config.lossSpike === undefined ? {} : { lossSpike: { action: config.lossSpike } }),
    ...(config.fastForward === undefined ? {} : { fastForward: config.fastForward }),
  }) satisfies Partial<FitOptions>;
