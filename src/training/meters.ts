/** The average of the latest values. */
export interface RunningAverage {
  add(value: number): void;
  /** NaN before the first value. */
  mean(): number;
}

/** Average of the last `window` values. */
export function runningAverage(window: number): RunningAverage {
  const values: number[] = [];
  return {
    add(value) {
      values.push(value);
      if (values.length > window) values.shift();
    },
    // Summed afresh: a running sum would drift, and one NaN would stay in it for ever.
    mean: () => values.reduce((sum, value) => sum + value, 0) / values.length,
  };
}

/** Mean of values with weights, for example of losses by their number of target tokens. */
export interface WeightedMean {
  add(value: number, weight: number): void;
  /** NaN while the weights sum to 0. */
  mean(): number;
  readonly weight: number;
}

/** Mean over everything added; the mean of per-batch losses weighted by tokens is the mean over tokens. */
export function weightedMean(): WeightedMean {
  let sum = 0;
  let total = 0;
  return {
    add(value, weight) {
      if (weight === 0) return;
      sum += value * weight;
      total += weight;
    },
    mean: () => sum / total,
    get weight() {
      return total;
    },
  };
}

/** Speed and remaining time of a run. */
export interface ProgressMeter {
  /** Records a finished step of `tokens` tokens. */
  step(tokens: number): void;
  /** Tokens per second over the window; 0 before the first step. */
  tokensPerSecond(): number;
  /** Seconds until `totalSteps` at the speed of the window; undefined before the first step. */
  remainingSeconds(): number | undefined;
  readonly steps: number;
  readonly tokens: number;
}

/**
 * Measures tokens per second and the time left.
 *
 * @param options.firstStep Steps already done when a run is resumed. Default 0.
 * @param options.window Steps to average over. Default 50.
 * @param options.now Clock in milliseconds. Default `performance.now`.
 *
 * @example
 * ```ts
 * import { formatDuration, progressMeter } from "tunesmith/training";
 * const meter = progressMeter({ totalSteps: 300 });
 * meter.step(512);
 * console.log(meter.tokensPerSecond(), formatDuration(meter.remainingSeconds() ?? 0));
 * ```
 */
export function progressMeter(options: {
  totalSteps: number;
  firstStep?: number;
  window?: number;
  now?: () => number;
}): ProgressMeter {
  const { totalSteps, firstStep = 0, window = 50, now = () => performance.now() } = options;
  const marks: { time: number; tokens: number }[] = [{ time: now(), tokens: 0 }];
  let steps = firstStep;
  let tokens = 0;
  /** Steps, tokens and seconds between the oldest and the newest mark. */
  const span = (): { steps: number; tokens: number; seconds: number } => {
    const first = marks[0];
    const last = marks.at(-1);
    if (!first || !last) return { steps: 0, tokens: 0, seconds: 0 };
    return {
      steps: marks.length - 1,
      tokens: last.tokens - first.tokens,
      seconds: (last.time - first.time) / 1000,
    };
  };
  return {
    step(count) {
      steps += 1;
      tokens += count;
      marks.push({ time: now(), tokens });
      if (marks.length > window + 1) marks.shift();
    },
    tokensPerSecond() {
      const { tokens, seconds } = span();
      return seconds > 0 ? tokens / seconds : 0;
    },
    remainingSeconds() {
      const { steps: measured, seconds } = span();
      return measured > 0 ? (seconds / measured) * Math.max(0, totalSteps - steps) : undefined;
    },
    get steps() {
      return steps;
    },
    get tokens() {
      return tokens;
    },
  };
}

/** Seconds as people read them: `42s`, `3m 05s`, `1h 02m`. */
export function formatDuration(seconds: number): string {
  const whole = Math.max(0, Math.round(seconds));
  const two = (value: number): string => String(value).padStart(2, "0");
  if (whole < 60) return `${whole}s`;
  if (whole < 3600) return `${Math.floor(whole / 60)}m ${two(whole % 60)}s`;
  return `${Math.floor(whole / 3600)}h ${two(Math.floor((whole % 3600) / 60))}m`;
}
