import type { StepInfo } from "../models/index.js";
import { checkFinite } from "./guards.js";
import type { FitSettings } from "./memory-budget.js";
import type { StepBatch } from "./objective.js";
import { forgetMoments, globalNorm, type Params } from "./optim/index.js";
import type { Run } from "./run.js";
import type { Stepper } from "./stepper.js";

/** One optimiser step: gradients of all micro-batches, guards, update, and what methods do around it. */
export async function update(run: Run, group: readonly StepBatch[], options: FitSettings, stepper: Stepper) {
  const step = run.step + 1;
  const { hooks, params, guard } = run;
  const { optimizer } = options;
  const at: StepInfo = {
    step,
    steps: options.steps,
    learningRate: optimizer.learningRate(step),
    params,
    forget: (name, entries) => forgetMoments(run.state, name, entries),
  };
  await hooks.beforeUpdate?.(at);
  const isTrained = (name: string) => hooks.isTrained?.(name, at) ?? true;
  const { loss, gradients } = await gradientsOf(run, group, stepper, at, true);
  const position = group.at(-1)?.state ?? run.position;
  const trained = only(params, isTrained);
  let grads = only(gradients, isTrained);
  const gradNorm = globalNorm(grads);
  checkFinite({ step, loss, grads, gradNorm });
  run.noise?.update(gradNorm, itemsOf(group));
  if (run.spikes?.isSpike(step, loss)) {
    run.step = step;
    run.position = position;
    return { loss, gradNorm, skipped: true as const };
  }
  guard.checkGrads(step, grads, (name) => !isTrained(name));
  if (optimizer.perturb) {
    const restore = optimizer.perturb(trained, grads, run.state, { step });
    try {
      // The same batches with the same dropout, from the place the optimiser moved to.
      grads = only((await gradientsOf(run, group, stepper, at, false)).gradients, isTrained);
    } finally {
      restore();
    }
    checkFinite({ step, loss, grads });
  }
  await run.updater.step(trained, grads, run.state, { step });
  await hooks.afterUpdate?.(at);
  guard.checkUpdate(step, grads.size === 0 ? 0 : optimizer.learningRate(step));
  run.step = step;
  run.position = position;
  return { loss, gradNorm, skipped: undefined };
}

/** Loss and gradients of an update, added up over its micro-batches; the hooks see those at the weights themselves. */
async function gradientsOf(
  { hooks, noise }: Run,
  group: readonly StepBatch[],
  stepper: Stepper,
  at: StepInfo,
  seen: boolean,
): Promise<{ readonly loss: number; readonly gradients: Params }> {
  const wanted = seen ? (hooks.wantedWeights?.(at) ?? []) : [];
  const items = itemsOf(group);
  let loss = 0;
  let total: Map<string, Float32Array> | undefined;
  for (const [micro, batch] of group.entries()) {
    const result = await stepper.run(batch, items, [at.step, micro], wanted);
    loss += result.loss;
    if (seen) noise?.micro(result.gradients, batch.count, items);
    if (seen) await hooks.afterBackward?.(at, result.gradients, result.weights);
    total = total ? accumulateInto(total, result.gradients) : new Map(result.gradients);
  }
  return { loss, gradients: total ?? new Map() };
}

const itemsOf = (group: readonly StepBatch[]): number => group.reduce((sum, batch) => sum + batch.count, 0);

const only = (params: Params, keep: (name: string) => boolean): Map<string, Float32Array> =>
  new Map([...params].filter(([name]) => keep(name)));

function accumulateInto(total: Map<string, Float32Array>, more: Params): Map<string, Float32Array> {
  for (const [name, gradient] of more) {
    const sum = total.get(name);
    if (!sum) total.set(name, gradient);
    else for (let i = 0; i < sum.length; i++) sum[i] = (sum[i] as number) + (gradient[i] as number);
  }
  return total;
}
