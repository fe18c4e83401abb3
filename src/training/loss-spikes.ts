import { TunesmithError } from "../errors/index.js";

export interface LossSpikeOptions {
  /** How many times the median of the latest losses a loss must exceed. Default 3. */
  readonly factor?: number;
  /** Losses the median is taken of. Default 50. */
  readonly window?: number;
  /** Whether the update is left out, or the run ends with `loss-spike`. Default "skip". */
  readonly action?: "skip" | "stop";
}

/** Watches for losses far above their recent median. */
export interface LossSpikes {
  /** Whether the update of this loss is to be left out. Throws `loss-spike` when the run is to stop. */
  isSpike(step: number, loss: number): boolean;
  /** The latest losses, for a checkpoint. */
  state(): readonly number[];
  restore(losses: readonly number[]): void;
}

/** Losses before which nothing is called a spike. */
const LEAST = 10;

/**
 * A guard against single batches that throw a run off: their loss is far above the median of those before. Losses that were
 * skipped do not count as recent. Losses that are not positive are never spikes.
 *
 * @example
 * ```ts
 * import { lossSpikes } from "tunesmith/training";
 * const spikes = lossSpikes({ factor: 2 });
 * for (let step = 1; step <= 10; step++) spikes.isSpike(step, 3);
 * console.log(spikes.isSpike(11, 9)); // true
 * ```
 */
export function lossSpikes(options: LossSpikeOptions = {}): LossSpikes {
  const { factor = 3, window = 50, action = "skip" } = options;
  if (!(factor > 1) || !Number.isSafeInteger(window) || window < LEAST) {
    throw new TunesmithError("config-invalid", `loss spikes: factor ${factor}, window ${window}`, {
      fix: `give a factor above 1 and a window of at least ${LEAST}`,
    });
  }
  let recent: number[] = [];
  return {
    isSpike(step, loss) {
      const median = recent.toSorted((a, b) => a - b)[Math.floor(recent.length / 2)] ?? Number.NaN;
      const spike = recent.length >= LEAST && median > 0 && loss > factor * median;
      if (!spike) recent = [...recent, loss].slice(-window);
      else if (action === "stop") {
        throw new TunesmithError(
          "loss-spike",
          `step ${step}: the loss is ${loss.toPrecision(4)}, ${(loss / median).toPrecision(3)} times its recent median`,
          {
            fix: "look at this batch, lower the learning rate, or let such updates be skipped",
            details: { step, loss, median },
          },
        );
      }
      return spike;
    },
    state: () => recent,
    restore(losses) {
      recent = [...losses];
    },
  };
}
