import { holdLock, makeDir } from "#io";
import { TunesmithError } from "../../errors/index.js";
import {
  baseFingerprint,
  cadence,
  type FitOptions,
  loadLatest,
  type Objective,
  type OptimizerState,
  type Params,
  restoreOptimizerState,
  restoreParams,
  saveCheckpoint,
} from "../../training/index.js";

/** Where a search keeps what it has done so far: as a run does. */
export interface SearchCheckpoints extends Pick<FitOptions, "runDir" | "resume" | "saveEvery" | "config"> {
  /** Called with the step after which a search goes on. */
  readonly onResume?: (step: number) => void;
}

/** How many batches of an epoch are behind an iterator. */
export interface Position {
  readonly epoch: number;
  readonly step: number;
}

/** What changes from step to step: all that is trained, and the states of both optimisers. */
export interface SearchState {
  readonly params: Params;
  readonly optimizers: readonly [updates: OptimizerState, gates: OptimizerState];
  /** Steps done. */
  step: number;
  /** Of the data of updates and of gates. */
  positions: readonly [updates: Position, gates: Position];
}

export interface SearchKeeper {
  /** Writes a checkpoint when one is due. */
  after(step: number): Promise<void>;
  /** The error of a search that was told to stop, which leaves a checkpoint where it keeps any. */
  cancelled(): Promise<TunesmithError>;
  release(): Promise<void>;
}

/**
 * Puts a search where its newest complete checkpoint left it, and keeps it from then on. Throws `checkpoint-mismatch`,
 * `in-use` when another process or tab works in the folder, `storage-full`.
 */
export async function searchKeeper(
  state: SearchState,
  halves: readonly [Objective, Objective],
  steps: number,
  { runDir, resume = false, saveEvery = 0, config = {}, onResume }: SearchCheckpoints,
): Promise<SearchKeeper> {
  const saves = runDir !== undefined && saveEvery !== 0;
  const saving = cadence(saveEvery);
  const identity = {
    base: await baseFingerprint(halves[0].model),
    halves: halves.map(({ name, identity: own }) => ({ objective: name, ...own })),
    ...config,
  };
  const optimizer = { slots: {}, scalars: {}, inner: state.optimizers };
  const save = async () => {
    const { step, positions, params } = state;
    const data = positions.map((each) => ({ ...each }));
    const content = { state: { step, epoch: positions[0].epoch, data }, params, optimizer };
    await saveCheckpoint(String(runDir), { ...content, config: identity });
  };
  if (runDir !== undefined) await makeDir(runDir);
  const release = runDir === undefined ? async () => undefined : await holdLock(runDir);
  try {
    const { checkpoint } =
      runDir !== undefined && resume
        ? await loadLatest(runDir, { config: identity })
        : { checkpoint: undefined };
    if (checkpoint) {
      restoreParams(state.params, checkpoint.params);
      restoreOptimizerState(optimizer, checkpoint.optimizer);
      state.step = checkpoint.state.step;
      state.positions = checkpoint.state.data as unknown as SearchState["positions"];
      onResume?.(state.step);
    }
  } catch (error) {
    await release();
    throw error;
  }
  return {
    release,
    async after(step) {
      if (!saves || !(step === steps || saving.isDue(step))) return;
      const start = performance.now();
      await save();
      saving.saved(performance.now() - start);
    },
    async cancelled() {
      const { step } = state;
      const kept = saves && step > 0;
      if (kept) await save();
      return new TunesmithError("cancelled", `the search was cancelled after step ${step}`, {
        fix: kept ? "continue with resume" : "set saveEvery to be able to continue",
        details: { step },
      });
    },
  };
}
