import { TunesmithError } from "../errors/index.js";
import { copyParams, restoreParams } from "./optim/state.js";
import type { Params } from "./optim/types.js";

/** What early stopping remembers, as plain data for a checkpoint; the best parameters are kept apart. */
export interface EarlyStoppingState {
  readonly best: number | undefined;
  readonly bestStep: number | undefined;
  /** Evaluations in a row without improvement. */
  readonly stale: number;
}

/** Watches a metric, keeps the best parameters and says when to stop. */
export interface EarlyStopping {
  /** Takes the metric of an evaluation; `improved` says that the parameters were kept as the best so far. */
  observe(step: number, metric: number): { readonly improved: boolean; readonly stop: boolean };
  /** Writes the best parameters back; returns their step, or undefined when nothing was observed. */
  restoreBest(): number | undefined;
  state(): EarlyStoppingState;
  /** The best parameters so far, for a checkpoint; undefined before the first finite metric. */
  best(): Params | undefined;
  /** Continues from a checkpoint; `best` are the parameters of `state.bestStep`. */
  restore(state: EarlyStoppingState, best: Params | undefined): void;
}

/**
 * Early stopping with restore of the best parameters.
 *
 * @param params The live trainable parameters; the best are copied, bit for bit.
 * @param options.patience Evaluations without improvement before stopping. Default 3.
 * @param options.minDelta Smallest change that counts as improvement. Default 0.
 * @param options.mode Whether the metric should fall or rise. Default "min".
 *
 * @example
 * ```ts
 * import { earlyStopping } from "tunesmith/training";
 * const params = new Map([["w", Float32Array.of(1)]]);
 * const stopping = earlyStopping(params, { patience: 1 });
 * stopping.observe(10, 2.0);
 * params.get("w")?.fill(5);
 * if (stopping.observe(20, 2.5).stop) console.log(stopping.restoreBest(), params.get("w")); // 10, [1]
 * ```
 */
export function earlyStopping(
  params: Params,
  options: { patience?: number; minDelta?: number; mode?: "min" | "max" } = {},
): EarlyStopping {
  const { patience = 3, minDelta = 0, mode = "min" } = options;
  if (!Number.isSafeInteger(patience) || patience < 1 || !(minDelta >= 0)) {
    throw new TunesmithError("config-invalid", `early stopping: patience ${patience}, minDelta ${minDelta}`, {
      fix: "give a whole patience of at least 1 and a minDelta of at least 0",
    });
  }
  let state: EarlyStoppingState = { best: undefined, bestStep: undefined, stale: 0 };
  let snapshot: Params | undefined;
  return {
    observe(step, metric) {
      // A NaN never counts as an improvement: both comparisons are false.
      const gain = mode === "min" ? (state.best ?? Infinity) - metric : metric - (state.best ?? -Infinity);
      const improved = state.best === undefined ? !Number.isNaN(metric) : gain > minDelta;
      state = improved ? { best: metric, bestStep: step, stale: 0 } : { ...state, stale: state.stale + 1 };
      if (improved) snapshot = copyParams(params);
      return { improved, stop: state.stale >= patience };
    },
    restoreBest() {
      if (snapshot) restoreParams(params, snapshot);
      return state.bestStep;
    },
    state: () => state,
    best: () => snapshot,
    restore(saved, best) {
      if (saved.bestStep !== undefined && !best) {
        throw new TunesmithError(
          "checkpoint-mismatch",
          `early stopping: the best parameters (step ${saved.bestStep}) are missing`,
          { fix: "store `best` in the checkpoint, or start early stopping afresh" },
        );
      }
      state = saved;
      snapshot = best && copyParams(best);
    },
  };
}
