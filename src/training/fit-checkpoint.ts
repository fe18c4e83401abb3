import { baseFingerprint } from "./base-fingerprint.js";
import { type Checkpoint, loadLatest, saveCheckpoint } from "./checkpoint.js";
import type { PlainData } from "./exact-json.js";
import type { FitSettings } from "./memory-budget.js";
import { restoreOptimizerState, restoreParams } from "./optim/index.js";
import type { Run } from "./run.js";

/** What must be the same for a run to be continued. */
async function identity({ objective }: Run, options: FitSettings): Promise<PlainData> {
  const { accumulate = 1, seed = 0, optimizer, config = {}, updateIn, lossSpike } = options;
  return {
    objective: objective.name,
    ...objective.identity,
    base: await baseFingerprint(objective.model),
    ...(updateIn && updateIn !== "auto" ? { updateIn } : {}),
    ...(lossSpike ? { lossSpike: { ...lossSpike } } : {}),
    accumulate,
    seed,
    optimizer: optimizer.name,
    ...(options.fastForward ? { fastForward: { ...options.fastForward } as PlainData } : {}),
    ...config,
  };
}

/** Writes a checkpoint of a run; gives its folder. */
export async function saveRun(run: Run, options: FitSettings): Promise<string> {
  const best = run.stopping?.best();
  const method = run.method.capture();
  const content = {
    state: {
      step: run.step,
      epoch: run.position.epoch,
      data: { ...run.position },
      zeroUpdate: run.guard.state(),
      ...(method?.hooks === undefined ? {} : { method: method.hooks }),
      // Only what was measured on these very weights may choose the best checkpoint.
      ...(run.metric?.step === run.step ? { metric: run.metric.value } : {}),
      ...(run.stopping ? { earlyStopping: run.stopping.state() } : {}),
      ...(run.forward ? { fastForward: { ...run.forward.state() } } : {}),
      ...(run.bestMethod?.hooks === undefined ? {} : { bestMethod: run.bestMethod.hooks }),
      ...(run.spikes ? { losses: run.spikes.state() } : {}),
      ...(run.noise ? { noiseScale: run.noise.state() } : {}),
    },
    params: run.params,
    optimizer: run.state,
    config: await identity(run, options),
    ...(best ? { best } : {}),
    ...(method ? { fixed: method.tensors } : {}),
    ...(run.bestMethod ? { bestFixed: run.bestMethod.tensors } : {}),
  };
  return saveCheckpoint(String(options.runDir), content, { mode: options.stopOn?.mode ?? "min" });
}

/** Puts a run where its newest complete checkpoint left it. */
export async function resumeRun(run: Run, options: FitSettings): Promise<Checkpoint | undefined> {
  const { checkpoint } = await loadLatest(String(options.runDir), { config: await identity(run, options) });
  if (!checkpoint) return undefined;
  restoreParams(run.params, checkpoint.params);
  restoreOptimizerState(run.state, checkpoint.optimizer);
  if (checkpoint.state.zeroUpdate) run.guard.restore(checkpoint.state.zeroUpdate);
  if (checkpoint.state.earlyStopping) run.stopping?.restore(checkpoint.state.earlyStopping, checkpoint.best);
  if (checkpoint.state.fastForward) run.forward?.restore(checkpoint.state.fastForward);
  run.method.restore({ hooks: checkpoint.state.method, tensors: checkpoint.fixed });
  if (checkpoint.best) {
    run.bestMethod = { hooks: checkpoint.state.bestMethod, tensors: checkpoint.bestFixed };
  }
  if (checkpoint.state.losses) run.spikes?.restore(checkpoint.state.losses);
  if (checkpoint.state.noiseScale) run.noise?.restore(checkpoint.state.noiseScale);
  run.step = checkpoint.state.step;
  run.position = checkpoint.state.data as { epoch: number; step: number };
  options.onEvent?.({ type: "resumed", step: run.step });
  return checkpoint;
}
