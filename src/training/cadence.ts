/** When a run writes checkpoints. */
export interface Cadence {
  isDue(step: number): boolean;
  /** Records how long a checkpoint took to write, in milliseconds. */
  saved(milliseconds: number): void;
}

/** Writing may take this share of a run, and a run is not interrupted more often than this. */
const [SHARE, LEAST_MS] = [0.02, 30_000];

/**
 * Every so many steps; or, with "auto", by the clock: as often as keeps the time spent on writing at 2 % of the run, and
 * not more often than every 30 seconds. 0: never.
 */
export function cadence(every: number | "auto", now: () => number = () => performance.now()): Cadence {
  let [last, cost] = [now(), 0];
  return {
    isDue: (step) =>
      every === "auto" ? now() - last >= Math.max(LEAST_MS, cost / SHARE) : every > 0 && step % every === 0,
    saved(milliseconds) {
      [last, cost] = [now(), milliseconds];
    },
  };
}
