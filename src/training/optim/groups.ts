import { TunesmithError } from "../../errors/index.js";
import type { Schedule } from "./schedules.js";
import type { Params } from "./types.js";

/** Settings for the parameters whose name matches; the first group that matches a name applies. */
export interface ParameterGroup {
  /** Regular expression searched in the parameter name. */
  readonly match: string | RegExp;
  /** Learning rate of the group; the schedule applies to it too. Default: the optimiser's. */
  readonly lr?: number;
  /** Multiplies the learning rate. Default 1. */
  readonly lrMultiplier?: number;
  /** Weight decay of the group. Default: the optimiser's. */
  readonly weightDecay?: number;
  /** Schedule of the group. Default: the optimiser's. */
  readonly schedule?: Schedule;
  /** Set where matching no parameter is fine; otherwise `init` throws `target-not-found`. Default false. */
  readonly optional?: boolean;
}

/** Learning rate and weight decay of one parameter after its group is applied. */
export interface GroupSettings {
  readonly lr: number;
  readonly weightDecay: number;
  /** The group's own schedule. */
  readonly schedule?: Schedule;
}

/** What applies to a parameter besides its group. */
export interface NameRules {
  /** Multiplies the learning rate, whatever the group; see `layerwiseDecay`. Default 1. */
  readonly lrScale?: ((name: string) => number) | undefined;
  /** Parameters that weight decay applies to; see `decayMask`. Default: all. */
  readonly decays?: ((name: string) => boolean) | undefined;
}

/** The settings of every name under `groups`, remembered so that expressions are run once per name. */
export function resolveGroups(
  defaults: GroupSettings,
  groups: readonly ParameterGroup[] = [],
  { lrScale = () => 1, decays = () => true }: NameRules = {},
): (name: string) => GroupSettings {
  const compiled = groups.map((group) => ({ group, pattern: compile(group.match) }));
  for (const { group } of compiled) {
    for (const [key, value] of Object.entries({
      lr: group.lr,
      lrMultiplier: group.lrMultiplier,
      weightDecay: group.weightDecay,
    })) {
      if (value !== undefined) requireNumber(`parameter group ${group.match}: ${key}`, value, 0);
    }
  }
  const known = new Map<string, GroupSettings>();
  return (name) => {
    let settings = known.get(name);
    if (!settings) {
      const group = compiled.find(({ pattern }) => pattern.test(name))?.group;
      settings = {
        lr: (group?.lr ?? defaults.lr) * (group?.lrMultiplier ?? 1) * lrScale(name),
        weightDecay: decays(name) ? (group?.weightDecay ?? defaults.weightDecay) : 0,
        ...(group?.schedule ? { schedule: group.schedule } : {}),
      };
      known.set(name, settings);
    }
    return settings;
  };
}

/** Throws `target-not-found` for a group that no parameter belongs to, unless it is optional. */
export function checkGroups(params: Params, groups: readonly ParameterGroup[] = []): void {
  for (const group of groups) {
    const pattern = compile(group.match);
    if (group.optional || [...params.keys()].some((name) => pattern.test(name))) continue;
    throw new TunesmithError(
      "target-not-found",
      `parameter group ${group.match} matches no trainable parameter`,
      {
        fix: `check the expression against the names, such as ${[...params.keys()].slice(0, 3).join(", ")}`,
        details: { match: String(group.match), names: [...params.keys()] },
      },
    );
  }
}

/**
 * Parameter groups of LoRA+ (arXiv 2402.12354): the B matrices (and one-dimensional adapter tensors) learn `ratio`
 * times faster than the A matrices; adapted embeddings get a learning rate of their own.
 *
 * @param ratio Learning rate of B over that of A; the paper suggests 16, or less for harder tasks.
 * @param options.embeddingLr Learning rate of `lora_embedding_A/B`. Default 1e-6, as in PEFT.
 *
 * @example
 * ```ts
 * import { adamw, loraPlusGroups } from "tunesmith/training";
 * const optimizer = adamw({ lr: 2e-4, groups: loraPlusGroups(16) });
 * console.log(optimizer.name);
 * ```
 */
export function loraPlusGroups(ratio: number, options: { embeddingLr?: number } = {}): ParameterGroup[] {
  requireNumber("LoRA+ ratio", ratio, 0);
  return [
    { match: "(^|[./])lora_embedding_[AB]([./]|$)", lr: options.embeddingLr ?? 1e-6, optional: true },
    { match: "(^|[./])lora_B([./]|$)", lrMultiplier: ratio },
    { match: "(^|[./])(lora_magnitude_vector|lora_bias|bias)([./]|$)", lrMultiplier: ratio, optional: true },
  ];
}

/** Biases and normalisation weights by name: `bias`, `*norm*.weight`, and GPT-2's `ln_1`, `ln_2`, `ln_f`. */
const UNDECAYED = "(^|[./])bias$|norm[^./]*[./]weight$|(^|[./])ln_\\w+[./]weight$";

/**
 * The parameters that weight decay applies to, for an optimiser's `decays`: all but those whose name matches. Unlike
 * `noDecayGroup` it leaves the groups free for learning rates.
 *
 * @param pattern Names to exempt. Default: biases and normalisation weights.
 *
 * @example
 * ```ts
 * import { adamw, decayMask, loraPlusGroups } from "tunesmith/training";
 * const optimizer = adamw({ lr: 2e-4, weightDecay: 0.1, decays: decayMask(), groups: loraPlusGroups(16) });
 * console.log(optimizer.name);
 * ```
 */
export function decayMask(pattern: string = UNDECAYED): (name: string) => boolean {
  const exempt = compile(pattern);
  return (name) => !exempt.test(name);
}

/**
 * Learning rates that shrink towards the input, for an optimiser's `lrScale`: `factor^(layers - 1 - i)` for layer i,
 * `factor^layers` for embeddings and whatever else comes before, 1 for what matches `top` (arXiv 1801.06146, 2003.10555).
 *
 * @param factor In (0, 1].
 * @param layers Number of layers; `layerCount` reads it off the parameter names.
 * @param options.layer Regular expression whose first group is the layer's index. Default: a number between dots.
 * @param options.top Names above the last layer. Default: head, final norm, score.
 *
 * @example
 * ```ts
 * import { adamw, layerwiseDecay } from "tunesmith/training";
 * const optimizer = adamw({ lr: 1e-4, lrScale: layerwiseDecay(0.9, 12) });
 * console.log(optimizer.name);
 * ```
 */
export function layerwiseDecay(
  factor: number,
  layers: number,
  options: { layer?: string; top?: string } = {},
): (name: string) => number {
  requireNumber("layer-wise decay: factor", factor, 0, 1 + Number.EPSILON);
  requireNumber("layer-wise decay: layers", layers, 1);
  const layer = compile(options.layer ?? LAYER);
  const top = compile(options.top ?? "(^|[./])(lm_head|head|classifier|score|ln_f|norm|final_norm)([./]|$)");
  return (name) => {
    const index = layer.exec(name)?.[1];
    if (index !== undefined) return factor ** Math.max(0, layers - 1 - Number(index));
    return top.test(name) ? 1 : factor ** layers;
  };
}

const LAYER = "[./](\\d+)[./]";

/** Number of layers by the largest index in the names; 0 where there is none. */
export function layerCount(names: Iterable<string>, layer: string = LAYER): number {
  const pattern = compile(layer);
  let count = 0;
  for (const name of names) count = Math.max(count, Number(pattern.exec(name)?.[1] ?? -1) + 1);
  return count;
}

/**
 * The group that exempts biases and normalisation weights from weight decay, as trainers customarily do.
 *
 * @param pattern Names to exempt; the default covers `bias`, `*norm*.weight`, and GPT-2's `ln_1`, `ln_2`, `ln_f`.
 */
export function noDecayGroup(pattern: string = UNDECAYED): ParameterGroup {
  return { match: pattern, weightDecay: 0, optional: true };
}

/** Throws `config-invalid` unless `minimum <= value < below` and the value is finite. */
export function requireNumber(
  what: string,
  value: number,
  minimum: number,
  below = Number.POSITIVE_INFINITY,
): void {
  if (Number.isFinite(value) && value >= minimum && value < below) return;
  const range = below === Number.POSITIVE_INFINITY ? `at least ${minimum}` : `in [${minimum}, ${below})`;
  throw new TunesmithError("config-invalid", `${what} is ${value}`, {
    fix: `give a finite number ${range}`,
    details: { value, minimum, below },
  });
}

function compile(match: string | RegExp): RegExp {
  try {
    // Flags g and y make `test` depend on the previous call.
    return typeof match === "string"
      ? new RegExp(match)
      : new RegExp(match.source, match.flags.replace(/[gy]/g, ""));
  } catch (cause) {
    throw new TunesmithError("config-invalid", `parameter group '${match}' is not a regular expression`, {
      fix: "escape special characters, for example 'lora_B\\\\.weight$'",
      cause,
    });
  }
}
