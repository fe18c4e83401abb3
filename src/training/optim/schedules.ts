import { TunesmithError } from "../../errors/index.js";
import { requireNumber } from "./groups.js";

/** Factor of the learning rate at a 0-based step: the first update is step 0, as in transformers. */
export type Schedule = (step: number) => number;

/** Linear warm-up from 0; give steps or a ratio of the total, not both. Default: none. */
export interface WarmupOptions {
  readonly warmupSteps?: number;
  /** In [0, 1); rounded up to whole steps. Needs `totalSteps`. */
  readonly warmupRatio?: number;
}

/** Warm-up and the number of updates of the whole run. */
export interface TotalOptions extends WarmupOptions {
  readonly totalSteps: number;
}

/** A schedule as data, the form it takes in a configuration file. */
export type ScheduleConfig =
  | ({ readonly type: "constant" } & WarmupOptions & { readonly totalSteps?: number })
  | ({ readonly type: "linear" } & TotalOptions)
  | ({ readonly type: "cosine" } & CosineOptions)
  | ({ readonly type: "cosine-with-restarts" } & RestartOptions)
  | ({ readonly type: "polynomial" } & PolynomialOptions)
  | ({ readonly type: "inverse-sqrt" } & InverseSqrtOptions)
  | ({ readonly type: "wsd" } & WsdOptions)
  | ({ readonly type: "one-cycle" } & OneCycleOptions);

/** Every schedule's type. */
export const scheduleNames = [
  "constant",
  "linear",
  "cosine",
  "cosine-with-restarts",
  "polynomial",
  "inverse-sqrt",
  "wsd",
  "one-cycle",
] as const satisfies readonly ScheduleConfig["type"][];

const WARMUP = ["warmupSteps", "warmupRatio", "totalSteps"];
/** Settings of each type beside the warm-up and the number of steps. */
const settings: Readonly<Record<ScheduleConfig["type"], readonly string[]>> = {
  constant: [],
  linear: [],
  cosine: ["cycles", "minFactor"],
  "cosine-with-restarts": ["cycles"],
  polynomial: ["power", "endFactor"],
  "inverse-sqrt": ["timescale"],
  wsd: ["decaySteps", "warmupType", "decayType", "minFactor"],
  "one-cycle": ["divFactor", "finalDivFactor", "anneal"],
};

function checkSettings(config: ScheduleConfig): void {
  const own = settings[config.type];
  const unknown =
    own && Object.keys(config).find((key) => key !== "type" && ![...WARMUP, ...own].includes(key));
  if (unknown === undefined) return;
  throw new TunesmithError("config-invalid", `${config.type} has no setting '${unknown}'`, {
    fix: own.length > 0 ? `its settings: ${own.join(", ")}` : "it has none but the warm-up's",
  });
}

/**
 * The schedule a configuration describes.
 *
 * @throws `config-invalid` for an unknown type or setting, or one out of range.
 *
 * @example
 * ```ts
 * import { createSchedule } from "tunesmith/training";
 * const schedule = createSchedule({ type: "cosine", totalSteps: 200, warmupRatio: 0.1 });
 * console.log(schedule(0), schedule(20), schedule(200)); // 0 1 0
 * ```
 */
export function createSchedule(config: ScheduleConfig): Schedule {
  checkSettings(config);
  switch (config.type) {
    case "constant":
      return constant(config);
    case "linear":
      return linear(config);
    case "cosine":
      return cosine(config);
    case "cosine-with-restarts":
      return cosineWithRestarts(config);
    case "polynomial":
      return polynomial(config);
    case "inverse-sqrt":
      return inverseSqrt(config);
    case "wsd":
      return wsd(config);
    case "one-cycle":
      return oneCycle(config);
    default:
      throw new TunesmithError("config-invalid", `unknown schedule '${(config as { type: unknown }).type}'`, {
        fix: `use one of: ${scheduleNames.join(", ")}`,
      });
  }
}

/** 1 after the warm-up (`get_constant_schedule_with_warmup`). */
export function constant(options: WarmupOptions & { readonly totalSteps?: number } = {}): Schedule {
  return afterWarmup(warmupOf("constant", options), () => 1);
}

/** Down to 0 in a straight line (`get_linear_schedule_with_warmup`). */
export function linear(options: TotalOptions): Schedule {
  const { warmup, decay, totalSteps } = phases("linear", options);
  return afterWarmup(warmup, (step) => Math.max(0, (totalSteps - step) / decay));
}

/** Settings of `cosine`. */
export interface CosineOptions extends TotalOptions {
  /** Waves between the peak and the end. Default 0.5: from the peak to the minimum. */
  readonly cycles?: number;
  /** Lowest factor, at the end. Default 0. */
  readonly minFactor?: number;
}

/** Half a cosine down to `minFactor` (`get_cosine_with_min_lr_schedule_with_warmup`; arXiv 1608.03983). */
export function cosine(options: CosineOptions): Schedule {
  const { cycles = 0.5, minFactor = 0 } = options;
  const { warmup, decay } = phases("cosine", options);
  requireNumber("cosine: cycles", cycles, 0);
  requireNumber("cosine: minFactor", minFactor, 0);
  return afterWarmup(warmup, (step) => {
    const wave = 0.5 * (1 + Math.cos(Math.PI * cycles * 2 * ((step - warmup) / decay)));
    return Math.max(0, wave * (1 - minFactor) + minFactor);
  });
}

/** Settings of `cosineWithRestarts`. */
export interface RestartOptions extends TotalOptions {
  /** Number of half cosines. Default 1. */
  readonly cycles?: number;
}

/** Half cosines to 0 with hard restarts (`get_cosine_with_hard_restarts_schedule_with_warmup`; arXiv 1608.03983). */
export function cosineWithRestarts(options: RestartOptions): Schedule {
  const { cycles = 1 } = options;
  const { warmup, decay } = phases("cosine-with-restarts", options);
  requireNumber("cosine-with-restarts: cycles", cycles, 1);
  return afterWarmup(warmup, (step) => {
    const progress = (step - warmup) / decay;
    if (progress >= 1) return 0;
    return Math.max(0, 0.5 * (1 + Math.cos(Math.PI * ((cycles * progress) % 1))));
  });
}

/** Settings of `polynomial`. */
export interface PolynomialOptions extends TotalOptions {
  /** Default 1: a straight line. */
  readonly power?: number;
  /** Factor at the end and after it. Default 0. */
  readonly endFactor?: number;
}

/** A power of the remaining share of steps (`get_polynomial_decay_schedule_with_warmup`, endFactor = lr_end / lr). */
export function polynomial(options: PolynomialOptions): Schedule {
  const { power = 1, endFactor = 0 } = options;
  const { warmup, decay, totalSteps } = phases("polynomial", options);
  requireNumber("polynomial: power", power, 0);
  requireNumber("polynomial: endFactor", endFactor, 0, 1);
  return afterWarmup(warmup, (step) => {
    if (step > totalSteps) return endFactor;
    return (1 - endFactor) * (1 - (step - warmup) / decay) ** power + endFactor;
  });
}

/** Settings of `inverseSqrt`. */
export interface InverseSqrtOptions extends WarmupOptions {
  readonly totalSteps?: number;
  /** Steps over which the factor falls to 1/sqrt(2). Default: the warm-up, or 10,000 without one. */
  readonly timescale?: number;
}

/** 1/sqrt(step) after the warm-up (`get_inverse_sqrt_schedule`). */
export function inverseSqrt(options: InverseSqrtOptions = {}): Schedule {
  const warmup = warmupOf("inverse-sqrt", options);
  const timescale = options.timescale ?? (warmup || 10_000);
  requireNumber("inverse-sqrt: timescale", timescale, 1);
  return afterWarmup(warmup, (step) => 1 / Math.sqrt((step + timescale - warmup) / timescale));
}

/** Shape of a rise or fall. */
export type Ramp = "linear" | "cosine" | "1-sqrt";

/** Settings of `wsd`. */
export interface WsdOptions extends TotalOptions {
  /** Steps of the final fall; what is left between warm-up and fall stays at 1. */
  readonly decaySteps: number;
  /** Default "linear". */
  readonly warmupType?: Ramp;
  /** Default "cosine". */
  readonly decayType?: Ramp;
  /** Factor at step 0 and at the end. Default 0. */
  readonly minFactor?: number;
}

/** Warm-up, stable, decay (`get_wsd_schedule`; arXiv 2404.06395). */
export function wsd(options: WsdOptions): Schedule {
  const { decaySteps, warmupType = "linear", decayType = "cosine", minFactor = 0 } = options;
  const { warmup, totalSteps } = phases("wsd", options);
  requireNumber("wsd: decaySteps", decaySteps, 1);
  requireNumber("wsd: minFactor", minFactor, 0);
  const fallAt = totalSteps - decaySteps;
  if (fallAt < warmup) {
    throw new TunesmithError(
      "config-invalid",
      `wsd: warm-up (${warmup}) and decay (${decaySteps}) exceed totalSteps (${totalSteps})`,
      { fix: "shorten one of them" },
    );
  }
  const lifted = (factor: number): number => Math.max(0, factor * (1 - minFactor) + minFactor);
  return (step) => {
    if (step < warmup) return lifted(rise(warmupType, step / warmup));
    if (step < fallAt) return 1;
    return step < totalSteps ? lifted(fall(decayType, (step - fallAt) / decaySteps)) : minFactor;
  };
}

function rise(ramp: Ramp, progress: number): number {
  if (ramp === "linear") return progress;
  return ramp === "cosine" ? 0.5 * (1 - Math.cos(Math.PI * progress)) : 1 - Math.sqrt(1 - progress);
}

function fall(ramp: Ramp, progress: number): number {
  if (ramp === "linear") return 1 - progress;
  return ramp === "cosine" ? 0.5 * (1 + Math.cos(Math.PI * progress)) : 1 - Math.sqrt(progress);
}

/** Settings of `oneCycle`. */
export interface OneCycleOptions extends TotalOptions {
  /** First factor is 1 / divFactor. Default 25. */
  readonly divFactor?: number;
  /** Last factor is 1 / (divFactor * finalDivFactor). Default 10,000. */
  readonly finalDivFactor?: number;
  /** Default "cosine". */
  readonly anneal?: "cosine" | "linear";
}

/**
 * Up to 1 and far down, the two-phase `torch.optim.lr_scheduler.OneCycleLR` with the optimiser's `lr` as its maximum
 * (arXiv 1708.07120). The warm-up is the rising phase; default ratio 0.3.
 */
export function oneCycle(options: OneCycleOptions): Schedule {
  const { totalSteps, divFactor = 25, finalDivFactor = 1e4, anneal = "cosine" } = options;
  phases("one-cycle", options);
  requireNumber("one-cycle: divFactor", divFactor, 1);
  requireNumber("one-cycle: finalDivFactor", finalDivFactor, 1);
  const peak = Math.max(0, (options.warmupSteps ?? (options.warmupRatio ?? 0.3) * totalSteps) - 1);
  const end = totalSteps - 1;
  const first = 1 / divFactor;
  const last = first / finalDivFactor;
  const between = (from: number, to: number, progress: number): number =>
    anneal === "linear"
      ? (to - from) * progress + from
      : to + ((from - to) / 2) * (Math.cos(Math.PI * progress) + 1);
  return (step) => {
    if (step >= end) return last;
    return step <= peak && peak > 0
      ? between(first, 1, step / peak)
      : between(1, last, (step - peak) / (end - peak));
  };
}

function afterWarmup(warmup: number, rest: Schedule): Schedule {
  return (step) => (step < warmup ? step / warmup : rest(step));
}

function phases(name: string, options: TotalOptions): { warmup: number; decay: number; totalSteps: number } {
  requireSteps(`${name}: totalSteps`, options.totalSteps, 1);
  const warmup = warmupOf(name, options);
  if (warmup > options.totalSteps) {
    throw new TunesmithError(
      "config-invalid",
      `${name}: ${warmup} warm-up steps exceed totalSteps (${options.totalSteps})`,
      { fix: "lower warmupSteps or use warmupRatio" },
    );
  }
  return { warmup, decay: Math.max(1, options.totalSteps - warmup), totalSteps: options.totalSteps };
}

function warmupOf(name: string, options: WarmupOptions & { totalSteps?: number }): number {
  const { warmupSteps, warmupRatio, totalSteps } = options;
  if (warmupSteps !== undefined && warmupRatio !== undefined) {
    throw new TunesmithError("config-invalid", `${name}: warmupSteps and warmupRatio are both set`, {
      fix: "give one of them",
    });
  }
  if (warmupRatio === undefined) {
    requireSteps(`${name}: warmupSteps`, warmupSteps ?? 0, 0);
    return warmupSteps ?? 0;
  }
  requireNumber(`${name}: warmupRatio`, warmupRatio, 0, 1);
  if (totalSteps === undefined) {
    throw new TunesmithError("config-invalid", `${name}: warmupRatio needs totalSteps`, {
      fix: "give totalSteps, or warmupSteps instead of the ratio",
    });
  }
  return Math.ceil(totalSteps * warmupRatio);
}

function requireSteps(what: string, value: number, minimum: number): void {
  if (Number.isSafeInteger(value) && value >= minimum) return;
  throw new TunesmithError("config-invalid", `${what} is ${value}`, {
    fix: `give a whole number of at least ${minimum}`,
    details: { value, minimum },
  });
}
