import { TunesmithError } from "../../errors/index.js";

/** NumPy's `Generator`, the part that adapter files need. */
export interface NumpyGenerator {
  /** The next 64-bit word of PCG64. */
  u64(): bigint;
  /** `shuffle(values)` of a one-dimensional array; in place, returns it. */
  shuffle<T extends Int32Array>(values: T): T;
  /** `choice(n, size=count, replace=False)` */
  choice(n: number, count: number): Int32Array;
}

/**
 * The sequences of `numpy.random.default_rng(seed)`, for reading adapter files that store a seed instead of indices
 * (Uni-LoRA). For anything else use `rng`.
 *
 * @param seed integer in [0, 2^32)
 * @throws `config-invalid` when the seed or a count is invalid.
 * @example
 * ```ts
 * import { numpyGenerator } from "tunesmith/runtime";
 * console.log(numpyGenerator(42).shuffle(Int32Array.of(0, 1, 2, 3)));
 * ```
 */
export function numpyGenerator(seed: number): NumpyGenerator {
  if (!Number.isInteger(seed) || seed < 0 || seed >= 2 ** 32)
    invalid(`seed ${seed} is not an integer in [0, 2^32)`);
  const { u64, u32 } = pcg64(seedWords(seed));
  const below = (last: number) => bounded(u32, last);
  return {
    u64,
    shuffle: (values) => shuffled(values, 1, (last) => masked(u32, last)),
    choice: (n, count) => chosen(checkCount(n), checkCount(count), below),
  };
}

// SeedSequence: constants of NumPy's bit_generator.pyx.
const POOL = 4;
const hash = (start: number, factor: number) => {
  let constant = start;
  return (value: number): number => {
    const mixed = value ^ constant;
    constant = Math.imul(constant, factor);
    const product = Math.imul(mixed, constant);
    return (product ^ (product >>> 16)) >>> 0;
  };
};
const mix = (x: number, y: number): number => {
  const value = (Math.imul(x, 0xca01f9dd) - Math.imul(y, 0x4973f715)) | 0;
  return (value ^ (value >>> 16)) >>> 0;
};

/** `SeedSequence(seed).generate_state(8, uint32)` */
function seedWords(seed: number): Uint32Array {
  const into = hash(0x43b0d7e5, 0x931e8875);
  const pool = Uint32Array.from({ length: POOL }, (_, at) => into(at === 0 ? seed : 0));
  for (let from = 0; from < POOL; from++)
    for (let to = 0; to < POOL; to++)
      if (from !== to) pool[to] = mix(pool[to] as number, into(pool[from] as number));
  const out = hash(0x8b51f9dd, 0x58f38ded);
  return Uint32Array.from({ length: 2 * POOL }, (_, at) => out(pool[at % POOL] as number));
}

const MULTIPLIER = 0x2360ed051fc65da44385df649fccf645n;

/** A 128-bit number as 16-bit limbs, lowest first: products of limbs add up exactly in doubles. */
const limbs = (value: bigint): Uint16Array =>
  Uint16Array.from({ length: 8 }, (_, at) => Number((value >> BigInt(16 * at)) & 0xffffn));

/** PCG XSL-RR 128/64, seeded as NumPy does. */
function pcg64(words: Uint32Array): { readonly u64: () => bigint; readonly u32: () => number } {
  const pair = (at: number) => (BigInt(words[at + 1] as number) << 32n) | BigInt(words[at] as number);
  const start = (pair(0) << 64n) | pair(2);
  const increment = ((((pair(4) << 64n) | pair(6)) << 1n) | 1n) & ((1n << 128n) - 1n);
  const state = limbs((increment + start) & ((1n << 128n) - 1n));
  const [by, plus] = [limbs(MULTIPLIER), limbs(increment)];
  const step = () => advance(state, by, plus);
  step();
  const word = new Uint32Array(2);
  const next = () => {
    step();
    output(state, word);
  };
  let spare: number | undefined;
  return {
    u64: () => {
      next();
      return (BigInt(word[1] as number) << 32n) | BigInt(word[0] as number);
    },
    // The low half first; the high half is kept for the next call.
    u32: () => {
      if (spare !== undefined) {
        const kept = spare;
        spare = undefined;
        return kept;
      }
      next();
      spare = word[1] as number;
      return word[0] as number;
    },
  };
}

/** state · by + plus, modulo 2^128. */
function advance(state: Uint16Array, by: Uint16Array, plus: Uint16Array): void {
  const old = state.slice();
  let carry = 0;
  for (let at = 0; at < 8; at++) {
    let sum = carry + (plus[at] as number);
    for (let i = 0; i <= at; i++) sum += (old[i] as number) * (by[at - i] as number);
    state[at] = sum % 65536;
    carry = Math.floor(sum / 65536);
  }
}

/** The exclusive or of both halves, rotated right by the top six bits; low word first. */
function output(state: Uint16Array, word: Uint32Array): void {
  const half = (at: number) => (state[at] as number) ^ (state[at + 4] as number);
  let [low, high] = [half(0) | (half(1) << 16), half(2) | (half(3) << 16)];
  const turn = (state[7] as number) >>> 10;
  if (turn >= 32) [low, high] = [high, low];
  const shift = turn % 32;
  if (shift === 0) word.set([low, high]);
  else word.set([(low >>> shift) | (high << (32 - shift)), (high >>> shift) | (low << (32 - shift))]);
}

/** A uniform integer in [0, last], by Lemire's method. */
function bounded(u32: () => number, last: number): number {
  if (last === 0) return 0;
  const range = last + 1;
  const threshold = (2 ** 32 - range) % range;
  for (;;) {
    const word = u32();
    // word · range in two parts, each exact.
    const low = (word & 0xffff) * range;
    const high = (word >>> 16) * range + Math.floor(low / 65536);
    const rest = (high % 65536) * 65536 + (low % 65536);
    if (rest >= threshold) return Math.floor(high / 65536);
  }
}

/** A uniform integer in [0, last], by as many bits as it needs until they fit. */
function masked(u32: () => number, last: number): number {
  const mask = 2 ** (32 - Math.clz32(last)) - 1;
  for (;;) {
    const value = (u32() & mask) >>> 0;
    if (value <= last) return value;
  }
}

/** Fisher and Yates from the end, down to place `first`. */
function shuffled<T extends Int32Array>(values: T, first: number, below: (last: number) => number): T {
  for (let at = values.length - 1; at >= first; at--) {
    const other = below(at);
    const kept = values[other] as number;
    values[other] = values[at] as number;
    values[at] = kept;
  }
  return values;
}

/** Floyd's method, or the tail of a partial shuffle where many of many are drawn. */
function chosen(n: number, count: number, below: (last: number) => number): Int32Array {
  if (count > n) invalid(`choice: cannot draw ${count} of ${n} without replacement`);
  if (n > 10_000 && count > Math.floor(n / 50)) {
    const all = Int32Array.from({ length: n }, (_, at) => at);
    return shuffled(all, Math.max(n - count, 1), below).slice(n - count);
  }
  const seen = new Set<number>();
  const out = Int32Array.from({ length: count }, (_, at) => {
    const last = n - count + at;
    const drawn = below(last);
    const value = seen.has(drawn) ? last : drawn;
    seen.add(value);
    return value;
  });
  return shuffled(out, 1, below);
}

function checkCount(count: number): number {
  if (!Number.isInteger(count) || count < 0 || count > 2 ** 31 - 1) invalid(`${count} is not a count`);
  return count;
}

function invalid(problem: string): never {
  throw new TunesmithError("config-invalid", `numpyGenerator: ${problem}`, { fix: "correct the argument" });
}
