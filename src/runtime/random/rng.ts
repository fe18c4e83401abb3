import { sha256 } from "@noble/hashes/sha2.js";
import { utf8ToBytes } from "@noble/hashes/utils.js";
import { TunesmithError } from "../../errors/index.js";
import { philox } from "./philox.js";

/** Names a stream of random numbers: a seed, or one part of the path below it. */
export type StreamKey = string | number;

/** Where a generator stands; plain JSON, a few bytes, enough to continue the same sequence elsewhere. */
export interface RngState {
  readonly seed: StreamKey;
  readonly stream: readonly StreamKey[];
  /** 32-bit words drawn so far. */
  readonly position: number;
}

/** Options of `choice`. */
export interface ChoiceOptions {
  /** Draw each index any number of times; default false. */
  readonly replace?: boolean;
  /** Relative weights, one per index; default equal. */
  readonly weights?: ArrayLike<number>;
}

/** A stream of random numbers. Every method but `fork` and `state` advances it. */
export interface Rng {
  /** A uniform integer in [0, 2^32). */
  u32(): number;
  /** A uniform number in [low, high), 53 random bits; default [0, 1). */
  uniform(low?: number, high?: number): number;
  /** A normal number; default mean 0, standard deviation 1. */
  normal(mean?: number, std?: number): number;
  /** A uniform integer in [low, high), without bias. */
  int(low: number, high: number): number;
  /** Fills with uniforms in [low, high), default [0, 1); returns `out`. */
  fillUniform<T extends Float32Array | Float64Array>(out: T, low?: number, high?: number): T;
  /** Fills with normals, default mean 0 and standard deviation 1; returns `out`. */
  fillNormal<T extends Float32Array | Float64Array>(out: T, mean?: number, std?: number): T;
  /**
   * Fills with 1 with probability 1 - p and 0 otherwise, p to 16 bits: the mask of dropout. Made for masks of millions:
   * four words of the stream seed a generator of their own (xoshiro128**); returns `out`.
   */
  fillKeep(out: Uint8Array, p: number): Uint8Array;
  /** A random order of `0 ..< n` (Fisher and Yates). */
  permutation(n: number): Int32Array;
  /** `count` indices from `0 ..< n`. */
  choice(n: number, count: number, options?: ChoiceOptions): Int32Array;
  /** The independent stream one or more keys further down; does not depend on this stream's position. */
  fork(...keys: StreamKey[]): Rng;
  /** Where this stream stands, for `resumeRng`. */
  state(): RngState;
}

/**
 * A counter-based generator (Philox4x32-10) keyed by a seed and any path of names and numbers, for example
 * `rng(seed, step, "dropout")`. Same keys, same numbers, in Node and in browsers; different keys, independent
 * numbers. No stream affects another, so a run can be resumed at any step.
 *
 * @throws `config-invalid` when a key is neither a finite number nor a string.
 * @example
 * ```ts
 * import { rng } from "tunesmith/runtime";
 * const noise = rng(7, "init", "layers.0").fillNormal(new Float32Array(16), 0, 0.02);
 * ```
 */
export function rng(seed: StreamKey, ...stream: StreamKey[]): Rng {
  return resumeRng({ seed, stream, position: 0 });
}

/** The generator that `state()` described. @throws `config-invalid` when the state is malformed. */
export function resumeRng(state: RngState): Rng {
  const keys = [state.seed, ...state.stream];
  const key = deriveKey(keys);
  if (!Number.isSafeInteger(state.position) || state.position < 0) {
    invalid(`position ${state.position} is not a non-negative integer`);
  }
  let position = state.position;
  let loaded = -1;
  const words = new Uint32Array(4);

  const u32 = (): number => {
    const index = Math.floor(position / 4);
    if (index !== loaded) {
      philox(
        words,
        index >>> 0,
        Math.floor(index / 2 ** 32),
        key[2] as number,
        key[3] as number,
        key[0] as number,
        key[1] as number,
      );
      loaded = index;
    }
    return words[position++ % 4] as number;
  };
  return {
    ...distributions(u32),
    fork: (...more) => rng(state.seed, ...state.stream, ...more),
    state: () => ({ seed: state.seed, stream: [...state.stream], position }),
  };
}

/** 128 bits out of the path: 64 of key, 64 of counter, so that streams neither coincide nor overlap. */
function deriveKey(keys: readonly StreamKey[]): Uint32Array {
  for (const key of keys) {
    if (typeof key !== "string" && !Number.isFinite(key))
      invalid(`key ${String(key)} is neither a finite number nor a string`);
  }
  const digest = sha256(utf8ToBytes(JSON.stringify(keys)));
  const view = new DataView(digest.buffer, digest.byteOffset, digest.byteLength);
  return Uint32Array.from({ length: 4 }, (_, i) => view.getUint32(4 * i, true));
}

function distributions(u32: () => number): Omit<Rng, "fork" | "state"> {
  // Half a unit away from both ends: log(0) cannot happen.
  const open = (): number => (u32() + 0.5) / 2 ** 32;
  const unit = (): number => ((u32() >>> 5) * 2 ** 26 + (u32() >>> 6)) / 2 ** 53;
  const int = (low: number, high: number): number => {
    const span = high - low;
    if (!Number.isSafeInteger(low) || !Number.isSafeInteger(high) || span < 1 || span > 2 ** 32) {
      invalid(`int: [${low}, ${high}) is not a range of 1 to 2^32 integers`);
    }
    const limit = 2 ** 32 - (2 ** 32 % span);
    for (;;) {
      const word = u32();
      if (word < limit) return low + (word % span);
    }
  };
  const permutation = (n: number): Int32Array => {
    const out = Int32Array.from({ length: checkCount("permutation", n) }, (_, i) => i);
    shuffleFirst(out, n - 1, int);
    return out;
  };
  return {
    u32,
    uniform: (low = 0, high = 1) => low + unit() * (high - low),
    normal: (mean = 0, std = 1) =>
      mean + std * Math.sqrt(-2 * Math.log(open())) * Math.cos(2 * Math.PI * open()),
    int,
    fillUniform: (out, low = 0, high = 1) => {
      // Single precision needs 24 bits; more would round up to `high` itself.
      const single = out instanceof Float32Array;
      for (let i = 0; i < out.length; i++)
        out[i] = low + (single ? (u32() >>> 8) / 2 ** 24 : unit()) * (high - low);
      return out;
    },
    fillNormal: (out, mean = 0, std = 1) => {
      for (let i = 0; i < out.length; i += 2) {
        const radius = std * Math.sqrt(-2 * Math.log(open()));
        const angle = 2 * Math.PI * open();
        out[i] = mean + radius * Math.cos(angle);
        if (i + 1 < out.length) out[i + 1] = mean + radius * Math.sin(angle);
      }
      return out;
    },
    fillKeep: (out, p) => {
      if (!(p >= 0 && p < 1)) invalid(`fillKeep: probability ${p} is not in [0, 1)`);
      return keepMask(out, Math.round(p * 2 ** 16), [u32(), u32(), u32(), u32()]);
    },
    permutation,
    choice: (n, count, options = {}) => choose(checkCount("choice", n), count, options, { int, unit, open }),
  };
}

/** xoshiro128** (Blackman and Vigna 2018), two draws of 16 bits a word: 1 where the draw is not below `threshold`. */
function keepMask(
  out: Uint8Array,
  threshold: number,
  [first, second, third, fourth]: readonly [number, number, number, number],
): Uint8Array {
  // All zeros would stay so.
  let [a, b, c, d] = [first, second, third, fourth | 1];
  for (let at = 0; at < out.length; at += 2) {
    const scrambled = Math.imul(b, 5);
    const word = Math.imul((scrambled << 7) | (scrambled >>> 25), 9);
    const shifted = b << 9;
    c ^= a;
    d ^= b;
    b ^= c;
    a ^= d;
    c ^= shifted;
    d = (d << 11) | (d >>> 21);
    out[at] = word >>> 16 >= threshold ? 1 : 0;
    // Beyond an odd end nothing is written.
    out[at + 1] = (word & 0xffff) >= threshold ? 1 : 0;
  }
  return out;
}

/** Partial Fisher-Yates: makes the first `count` places a uniform draw without replacement. */
function shuffleFirst(values: Int32Array, count: number, int: Rng["int"]): void {
  for (let i = 0; i < count; i++) {
    const j = int(i, values.length);
    const kept = values[i] as number;
    values[i] = values[j] as number;
    values[j] = kept;
  }
}

function choose(
  n: number,
  count: number,
  { replace = false, weights }: ChoiceOptions,
  draw: { int: Rng["int"]; unit: () => number; open: () => number },
): Int32Array {
  checkCount("choice", count);
  if (!replace && count > n) invalid(`choice: cannot draw ${count} of ${n} without replacement`);
  if (n === 0 && count > 0) invalid("choice: nothing to draw from");
  if (!weights) {
    if (replace) return Int32Array.from({ length: count }, () => draw.int(0, n));
    const all = Int32Array.from({ length: n }, (_, i) => i);
    shuffleFirst(all, count, draw.int);
    return all.slice(0, count);
  }
  if (weights.length !== n) invalid(`choice: ${weights.length} weights for ${n} indices`);
  const positive = Array.from(weights).filter((weight) => {
    if (!(weight >= 0) || weight === Number.POSITIVE_INFINITY)
      invalid(`choice: weight ${weight} is not a finite non-negative number`);
    return weight > 0;
  }).length;
  if (positive < (replace ? Math.min(count, 1) : count))
    invalid(`choice: only ${positive} indices have a positive weight`);
  return replace
    ? weightedWithReplacement(weights, count, draw.unit)
    : weightedWithoutReplacement(weights, count, draw.open);
}

function weightedWithReplacement(weights: ArrayLike<number>, count: number, unit: () => number): Int32Array {
  const cumulative = new Float64Array(weights.length);
  let total = 0;
  for (let i = 0; i < weights.length; i++) {
    total += weights[i] as number;
    cumulative[i] = total;
  }
  return Int32Array.from({ length: count }, () => {
    const target = unit() * total;
    let low = 0;
    let high = weights.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((cumulative[middle] as number) > target) high = middle;
      else low = middle + 1;
    }
    return low;
  });
}

/** Efraimidis and Spirakis 2006: the indices with the largest `log(u) / weight`. */
function weightedWithoutReplacement(
  weights: ArrayLike<number>,
  count: number,
  open: () => number,
): Int32Array {
  const keys = Float64Array.from(
    { length: weights.length },
    (_, i) => Math.log(open()) / (weights[i] as number),
  );
  const order = Array.from(keys.keys()).sort((a, b) => (keys[b] as number) - (keys[a] as number) || a - b);
  return Int32Array.from(order.slice(0, count));
}

function checkCount(operation: string, n: number): number {
  if (!Number.isInteger(n) || n < 0 || n > 2 ** 31 - 1) invalid(`${operation}: ${n} is not a count`);
  return n;
}

function invalid(problem: string): never {
  throw new TunesmithError("config-invalid", `random numbers: ${problem}`, { fix: "correct the argument" });
}
