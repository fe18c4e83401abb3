import { TunesmithError } from "../../errors/index.js";
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
  /** Set where matching no parameter is fine; otherwise `init` throws `target-not-found`. Default false. */
  readonly optional?: boolean;
}

/** Learning rate and weight decay of one parameter after its group is applied. */
export interface GroupSettings {
  readonly lr: number;
  readonly weightDecay: number;
}

/** The settings of every name under `groups`, remembered so that expressions are run once per name. */
export function resolveGroups(
  defaults: GroupSettings,
  groups: readonly ParameterGroup[] = [],
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
        lr: (group?.lr ?? defaults.lr) * (group?.lrMultiplier ?? 1),
        weightDecay: group?.weightDecay ?? defaults.weightDecay,
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

/**
 * The group that exempts biases and normalisation weights from weight decay, as trainers customarily do.
 *
 * @param pattern Names to exempt; the default covers `bias`, `*norm*.weight`, and GPT-2's `ln_1`, `ln_2`, `ln_f`.
 */
export function noDecayGroup(
  pattern: string = "(^|[./])bias$|norm[^./]*[./]weight$|(^|[./])ln_\\w+[./]weight$",
): ParameterGroup {
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
