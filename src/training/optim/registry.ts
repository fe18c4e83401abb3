import { z } from "zod";
import { TunesmithError } from "../../errors/index.js";
import { nearest } from "../../models/index.js";
import { clipAdaptive } from "./adaptive-clip.js";
import { decayMask, layerCount, layerwiseDecay, loraPlusGroups, type ParameterGroup } from "./groups.js";
import { quantizedState } from "./quantized.js";
import { entries, type OptimizerEntry, type Shared, unitSteps } from "./registry-entries.js";
import { createSchedule, type Schedule, type ScheduleConfig } from "./schedules.js";
import { clipByGlobalNorm, clipByValue } from "./transforms.js";
import type { GradientTransform, Optimizer } from "./types.js";
import { clipped, ema, lookahead, sam, swa } from "./wrappers.js";

export type { OptimizerEntry } from "./registry-entries.js";

const count = () => z.number().int().min(1);
const ratio = () => z.number().min(0).max(1);

const group = z.strictObject({
  match: z.string().min(1).describe("regular expression searched in parameter names"),
  lr: z.number().min(0).optional().describe("learning rate"),
  lrMultiplier: z.number().min(0).optional().describe("multiplies the learning rate"),
  weightDecay: z.number().min(0).optional().describe("weight decay"),
  schedule: z
    .looseObject({ type: z.string() })
    .optional()
    .describe("schedule: type and its settings; totalSteps is filled in"),
  optional: z.boolean().optional().describe("matching no parameter is fine"),
});

/** What every optimiser takes besides its own options: gradients before it, groups, wrappers around it. */
export const optimizerModifiers = z.strictObject({
  maxGradNorm: z.number().positive().optional().describe("clip the gradients' norm to this"),
  clipValue: z.number().positive().optional().describe("clamp every gradient value to plus or minus this"),
  adaptiveClip: z
    .number()
    .positive()
    .optional()
    .describe("clip each unit's gradient to this share of its weights' norm"),
  decayAll: z
    .boolean()
    .default(false)
    .describe("apply weight decay to biases and normalisation weights as well"),
  loraPlus: z
    .number()
    .positive()
    .optional()
    .describe("LoRA+: learning rate of B over that of A, for example 16"),
  layerDecay: z
    .number()
    .positive()
    .max(1)
    .optional()
    .describe("learning rate of a layer over that of the layer above it, for example 0.9"),
  parameterGroups: z
    .array(group)
    .default([])
    .describe("learning rates, schedules and weight decay by parameter name; the first match applies"),
  stateBits: z
    .literal([8, 32])
    .default(32)
    .describe("bits of the optimiser's state per number; 8: block-wise, in bitsandbytes' dynamic data type"),
  lookaheadEvery: count()
    .optional()
    .describe("Lookahead: steps between moves of the slow weights, for example 5"),
  lookaheadAlpha: ratio().default(0.5).describe("Lookahead: share of the way the slow weights move"),
  samRho: z
    .number()
    .positive()
    .optional()
    .describe("sharpness-aware minimisation: distance, for example 0.05; doubles the cost of a step"),
  samAdaptive: z
    .boolean()
    .default(false)
    .describe("sharpness-aware minimisation: distance relative to weights"),
  emaDecay: z
    .number()
    .min(0)
    .lt(1)
    .optional()
    .describe("evaluate and keep a moving average of the weights, for example 0.999"),
  swaStart: count().optional().describe("evaluate and keep the mean of the weights from this step on"),
  swaEvery: count().default(1).describe("steps between the weights that are averaged"),
});

/** Names of all optimisers. */
export const optimizerNames: readonly string[] = entries.map(({ name }) => name);

/**
 * The optimiser `name`. Throws `config-invalid` with near names.
 *
 * @example
 * ```ts
 * import { optimizerNamed } from "tunesmith/training";
 * console.log(optimizerNamed("lion").summary, optimizerNamed("lion").paper);
 * ```
 */
export function optimizerNamed(name: string): OptimizerEntry {
  const found = entries.find((entry) => entry.name === name);
  if (found) return found;
  throw new TunesmithError("config-invalid", `unknown optimiser '${name}'`, {
    fix: `near names: ${nearest(name, optimizerNames, 3).join(", ")}`,
  });
}

/** Default learning rate of an optimiser whose steps are about as long as the rate; undefined for the others. */
export const unitStepRate = (name: string): number | undefined =>
  unitSteps.has(name) ? (optimizerNamed(name).options.parse({}).lr as number) : undefined;

/** All options of an optimiser: its own and `optimizerModifiers`. */
export const optimizerOptions = (name: string): z.ZodObject =>
  z.strictObject({ ...optimizerNamed(name).options.shape, ...optimizerModifiers.shape });

/** What an optimiser is made for. */
export interface OptimizerContext {
  /** Default: constant. */
  readonly schedule?: Schedule | undefined;
  /** Number of updates of the run, for the schedules of groups. */
  readonly totalSteps?: number | undefined;
  /** Names of the trained parameters; needed by `layerDecay`. */
  readonly names?: readonly string[] | undefined;
}

/**
 * An optimiser by its name, from options given as data: those of the optimiser itself, and `optimizerModifiers`. From the
 * inside: the optimiser, its 8-bit state, clipping, Lookahead, SAM, the moving average or mean.
 *
 * @throws `config-invalid` naming the option.
 *
 * @example
 * ```ts
 * import { cosine, createOptimizer } from "tunesmith/training";
 * const schedule = cosine({ totalSteps: 100 });
 * const optimizer = createOptimizer("lion", { lr: 1e-5, maxGradNorm: 1, emaDecay: 0.99 }, { schedule });
 * console.log(optimizer.name); // ema(lion)
 * ```
 */
export function createOptimizer(
  name: string,
  options: Readonly<Record<string, unknown>> = {},
  context: OptimizerContext = {},
): Optimizer {
  const entry = optimizerNamed(name);
  const parsed = optimizerOptions(name).safeParse(options);
  if (!parsed.success) {
    const issue = parsed.error.issues[0];
    const known = Object.keys(optimizerOptions(name).shape);
    const place = issue?.path.join(".");
    const unknown = issue?.code === "unrecognized_keys" ? issue.keys[0] : undefined;
    throw new TunesmithError("config-invalid", `${name}: ${place ? `${place}: ` : ""}${issue?.message}`, {
      fix:
        unknown === undefined || place
          ? `its options: ${known.join(", ")}`
          : `near names: ${nearest(unknown, known, 3).join(", ")}`,
    });
  }
  checkIdle(name, options, context.totalSteps);
  const all = parsed.data as Modifiers & Record<string, unknown>;
  const own = Object.fromEntries(Object.keys(entry.options.shape).map((key) => [key, all[key]]));
  const core = entry.make(own, sharedOf(all, context));
  return around(entry, all.stateBits === 8 ? quantizedState(core) : core, all);
}

type Modifiers = z.output<typeof optimizerModifiers>;

/** Options that only say how another does its work. */
const PARTS = { lookaheadAlpha: "lookaheadEvery", samAdaptive: "samRho", swaEvery: "swaStart" } as const;

/** An option that would do nothing is a mistake. */
function checkIdle(name: string, options: Readonly<Record<string, unknown>>, totalSteps?: number): void {
  for (const [part, whole] of Object.entries(PARTS)) {
    if (options[part] === undefined || options[whole] !== undefined) continue;
    throw new TunesmithError("config-invalid", `${name}: ${part} does nothing without ${whole}`, {
      fix: `give ${whole}, or leave it out`,
    });
  }
  const { swaStart } = options;
  if (typeof swaStart !== "number" || totalSteps === undefined || swaStart <= totalSteps) return;
  throw new TunesmithError(
    "config-invalid",
    `${name}: swaStart ${swaStart} is after the last of ${totalSteps} steps`,
    {
      fix: `give a step from 1 to ${totalSteps}`,
    },
  );
}

function around(entry: OptimizerEntry, core: Optimizer, options: Modifiers): Optimizer {
  const { maxGradNorm, clipValue, adaptiveClip, lookaheadEvery, samRho, emaDecay, swaStart } = options;
  const before: GradientTransform[] = [
    ...(clipValue === undefined ? [] : [clipByValue(clipValue)]),
    ...(adaptiveClip === undefined ? [] : [clipAdaptive(adaptiveClip)]),
    ...(maxGradNorm === undefined ? [] : [clipByGlobalNorm(maxGradNorm)]),
  ];
  if (emaDecay !== undefined && swaStart !== undefined) {
    throw new TunesmithError("config-invalid", "emaDecay and swaStart are both set", {
      fix: "give one of them",
    });
  }
  if (entry.averages && (emaDecay ?? swaStart ?? lookaheadEvery) !== undefined) {
    throw new TunesmithError("config-invalid", `${entry.name} averages its weights itself`, {
      fix: "leave out emaDecay, swaStart and lookaheadEvery",
    });
  }
  let optimizer = before.length > 0 ? clipped(core, before) : core;
  if (lookaheadEvery !== undefined) {
    optimizer = lookahead(optimizer, { every: lookaheadEvery, alpha: options.lookaheadAlpha });
  }
  if (samRho !== undefined) optimizer = sam(optimizer, { rho: samRho, adaptive: options.samAdaptive });
  if (emaDecay !== undefined) optimizer = ema(optimizer, { decay: emaDecay });
  if (swaStart !== undefined) optimizer = swa(optimizer, { start: swaStart, every: options.swaEvery });
  return optimizer;
}

function sharedOf(options: Modifiers, { schedule, totalSteps, names }: OptimizerContext): Shared {
  const groups: ParameterGroup[] = options.parameterGroups.map(({ schedule: own, ...rest }) => ({
    ...defined(rest),
    match: rest.match,
    ...(own && { schedule: createSchedule({ ...(totalSteps && { totalSteps }), ...own } as ScheduleConfig) }),
  }));
  if (options.loraPlus !== undefined) groups.push(...loraPlusGroups(options.loraPlus));
  return {
    schedule,
    groups,
    ...(options.decayAll ? {} : { decays: decayMask() }),
    ...(options.layerDecay === undefined ? {} : { lrScale: layerScale(options.layerDecay, names) }),
  };
}

function layerScale(factor: number, names: readonly string[] | undefined): (name: string) => number {
  const layers = layerCount(names ?? []);
  if (layers > 0) return layerwiseDecay(factor, layers);
  throw new TunesmithError("config-invalid", "layerDecay: no parameter name has a layer's number", {
    fix: names ? "leave layerDecay out, or give parameterGroups" : "pass the parameters' names",
  });
}

const defined = <T extends object>(values: T): { [K in keyof T]: NonNullable<T[K]> } =>
  Object.fromEntries(Object.entries(values).filter(([, value]) => value !== undefined)) as never;

/** An optimiser with its options as a JSON schema's properties, for tables and other programs. */
export const describeOptimizer = ({ name, summary, paper, options }: OptimizerEntry) => ({
  name,
  summary,
  paper: paper ?? null,
  options: z.toJSONSchema(options, { io: "input" }).properties ?? {},
});

/** Floats of state per float of a large matrix; what a memory plan needs. */
export function stateFactor(optimizer: Optimizer): number {
  const side = 64;
  const params = new Map([["layers.0.proj.lora_A.weight", new Float32Array(side * side)]]);
  const shapes = new Map([["layers.0.proj.lora_A.weight", [side, side]]]);
  const bytes = (state: ReturnType<Optimizer["init"]>): number => {
    const arrays = [state.slots, state.bytes ?? {}].flatMap((part) => Object.values(part));
    const own = arrays.flatMap((slot) => [...slot.values()]).reduce((sum, data) => sum + data.byteLength, 0);
    return state.inner.reduce((sum, part) => sum + bytes(part), own);
  };
  return bytes(optimizer.transform.init(params, shapes)) / (4 * side * side);
}
