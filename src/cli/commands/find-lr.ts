import { findLearningRate } from "../../training/index.js";
import type { Context } from "../command.js";
import { table } from "../ui.js";
import { sessionOf } from "../work.js";
import { optimizerOf, type Prepared, type RunConfig } from "./prepare-run.js";

const STEPS = 100;

/** Prints how the loss follows a growing learning rate, and which one to start from; nothing is saved. */
export async function findLr(config: RunConfig, prepared: Prepared, { ui, signal }: Context): Promise<void> {
  const bar = ui.progress("learning rates", STEPS);
  let done = 0;
  try {
    const { suggestion, largest, points } = await findLearningRate(prepared.objective, {
      optimizer: (lr, schedule) => optimizerOf({ ...config, lr }, STEPS, prepared.model, schedule),
      accumulate: config.accumulate,
      seed: config.seed,
      steps: STEPS,
      session: sessionOf(config),
      recompute: config.recomputeBlocks ?? config.recompute,
      signal,
      onStep: ({ loss, learningRate }) =>
        bar.update(++done, `lr ${learningRate.toExponential(1)}  loss ${loss.toFixed(4)}`),
    });
    bar.stop();
    const every = points.filter((_, at) => at % 10 === 0);
    ui.say(
      table(every.map(({ learningRate, smoothed }) => [learningRate.toExponential(1), smoothed.toFixed(4)])),
    );
    ui.say(
      suggestion === undefined
        ? "the loss never falls: look at the data and the method"
        : `the loss falls fastest at ${suggestion.toExponential(1)}, and until ${largest?.toExponential(1)}`,
    );
    ui.result({ suggestion: suggestion ?? null, largest: largest ?? null, points });
  } finally {
    bar.stop();
  }
}
