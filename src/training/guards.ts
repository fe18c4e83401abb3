import { TunesmithError } from "../errors/index.js";
import { globalNorm } from "./optim/transforms.js";
import type { Params } from "./optim/types.js";

/**
 * Stops a run whose loss or gradients are no longer finite, before the update spoils the parameters.
 *
 * @param values.gradNorm The global norm, if the caller has it already: it is finite exactly when all gradients are,
 *   and then no gradient is read again.
 * @returns The global norm of the gradients before clipping.
 * @throws `loss-not-finite` naming the loss, or the first bad tensor, the position and the value.
 *
 * @example
 * ```ts
 * import { checkFinite } from "tunesmith/training";
 * const grads = new Map([["w", Float32Array.of(3, 4)]]);
 * console.log(checkFinite({ step: 1, loss: 2.5, grads })); // 5
 * ```
 */
export function checkFinite(values: {
  readonly step: number;
  readonly loss: number;
  readonly grads: Params;
  readonly gradNorm?: number;
}): number {
  const { step, loss, grads } = values;
  const norm = values.gradNorm ?? globalNorm(grads);
  const bad = Number.isFinite(norm) ? undefined : firstNonFinite(grads);
  if (Number.isFinite(loss) && !bad) return norm;
  const where = bad ? `the gradient of '${bad.name}' is ${bad.value} at index ${bad.index}` : "";
  const lossPart = Number.isFinite(loss) ? "" : `the loss is ${loss}`;
  throw new TunesmithError(
    "loss-not-finite",
    `step ${step}: ${[lossPart, where].filter((part) => part !== "").join(" and ")}`,
    {
      fix: "lower the learning rate, add warm-up or maxGradNorm, or look at this batch for empty or corrupt samples",
      details: { step, loss, ...(bad ? { name: bad.name, index: bad.index, value: bad.value } : {}) },
    },
  );
}

/** The first value that is NaN or infinite, in the order of the map. */
export function firstNonFinite(
  tensors: Params,
): { readonly name: string; readonly index: number; readonly value: number } | undefined {
  for (const [name, data] of tensors) {
    const index = data.findIndex((value) => !Number.isFinite(value));
    if (index >= 0) return { name, index, value: data[index] as number };
  }
  return undefined;
}

/** What the zero-update guard remembers, as plain data for a checkpoint. */
export interface ZeroUpdateState {
  /** Consecutive steps with an all-zero or absent gradient, for tensors that have any. */
  readonly zeroSteps: Readonly<Record<string, number>>;
}

/** A guard against training that changes nothing. */
export interface ZeroUpdateGuard {
  /** Call with the gradients of every step, before the optimiser overwrites them; `isIdle` names tensors that sit this step out. */
  checkGrads(step: number, grads: Params, isIdle?: (name: string) => boolean): void;
  /** Call after the optimiser. `learningRate` 0 (first warm-up step) does not count. */
  checkUpdate(step: number, learningRate: number): void;
  state(): ZeroUpdateState;
  restore(state: ZeroUpdateState): void;
}

/**
 * Watches trainable tensors for the two ways in which training silently does nothing: a tensor whose gradient is
 * exactly zero (or missing) for `patience` steps in a row, and no tensor changing at all over `patience` updates.
 * One step proves nothing: LoRA's A has a zero gradient at step 1, while B is still zero.
 *
 * @param params The live trainable parameters.
 * @param options.patience Steps in a row. Default 10.
 * @param options.mayBeZero Tensors that may go without gradient, for example rows of rare tokens.
 * @param options.groupOf What a tensor belongs to that may go without gradient as long as another of the same group has one:
 *   experts and gates of one adapter. Default: each stands alone.
 *
 * `checkGrads` and `checkUpdate` throw `zero-update` naming the tensors.
 */
export function zeroUpdateGuard(
  params: Params,
  options: {
    patience?: number;
    mayBeZero?: (name: string) => boolean;
    groupOf?: (name: string) => string | undefined;
  } = {},
): ZeroUpdateGuard {
  const { patience = 10, mayBeZero = () => false, groupOf = () => undefined } = options;
  let zeroSteps = new Map<string, number>();
  let updates = 0;
  let baseline = checksums(params);
  return {
    checkGrads(step, grads, isIdle = () => false) {
      for (const name of params.keys()) {
        const data = grads.get(name);
        if (data?.some((value) => value !== 0)) zeroSteps.delete(name);
        else if (!mayBeZero(name) && !isIdle(name)) zeroSteps.set(name, (zeroSteps.get(name) ?? 0) + 1);
      }
      const isDead = (name: string) => (zeroSteps.get(name) ?? 0) >= patience;
      const names = [...params.keys()];
      const alive = new Set(names.filter((name) => !isDead(name)).map(groupOf));
      alive.delete(undefined);
      const dead = names.filter((name) => isDead(name) && !alive.has(groupOf(name)));
      if (dead.length > 0) throw zeroGradient(step, dead, patience);
    },
    checkUpdate(step, learningRate) {
      if (learningRate === 0) return;
      updates += 1;
      if (updates < patience) return;
      // Checksums are compared once per window, so that the guard costs a fraction of a pass per step.
      if (!changed(params, baseline)) throw nothingChanged(step, [...params.keys()], patience);
      updates = 0;
      baseline = checksums(params);
    },
    state: () => ({ zeroSteps: Object.fromEntries(zeroSteps) }),
    restore(state) {
      zeroSteps = new Map(Object.entries(state.zeroSteps).filter(([name]) => params.has(name)));
      updates = 0;
      baseline = checksums(params);
    },
  };
}

function zeroGradient(step: number, names: readonly string[], patience: number): TunesmithError {
  return new TunesmithError(
    "zero-update",
    `step ${step}: ${listed(names)} received a gradient of exactly zero for ${patience} steps in a row`,
    {
      fix: "check that these tensors feed the loss (a detached input, a mask of zeros, a scale of 0), or freeze them; if the loss jumped before, the learning rate is too high and the outputs have saturated",
      details: { step, names },
    },
  );
}

function nothingChanged(step: number, names: readonly string[], patience: number): TunesmithError {
  return new TunesmithError(
    "zero-update",
    `step ${step}: ${patience} updates changed not one bit of ${listed(names)}`,
    {
      fix: "raise the learning rate: each update is too small to be represented in float32",
      details: { step, names },
    },
  );
}

function listed(names: readonly string[]): string {
  const shown = names.slice(0, 5).map((name) => `'${name}'`);
  return shown.join(", ") + (names.length > 5 ? ` and ${names.length - 5} more` : "");
}

function changed(params: Params, baseline: ReadonlyMap<string, number>): boolean {
  for (const [name, data] of params) if (checksum(data) !== baseline.get(name)) return true;
  return false;
}

function checksums(params: Params): Map<string, number> {
  return new Map([...params].map(([name, data]) => [name, checksum(data)]));
}

/** Position-dependent 32-bit hash of the bits (FNV-1a over words). */
function checksum(data: Float32Array): number {
  const words = new Int32Array(data.buffer, data.byteOffset, data.length);
  let hash = 0x811c9dc5 | 0;
  for (let i = 0; i < words.length; i++) hash = Math.imul(hash ^ (words[i] as number), 0x01000193);
  return hash;
}
