import { TunesmithError } from "../../errors/index.js";

/** PyTorch's CPU generator. */
export interface Mt19937 {
  /** The next 32-bit word. */
  u32(): number;
  /** `torch.randperm(n)` */
  randperm(n: number): Int32Array;
  /** `torch.randint(low, high, (count,))` */
  randint(low: number, high: number, count: number): Int32Array;
  /** `torch.empty(count).uniform_(low, high)` in float32 */
  uniform(count: number, low?: number, high?: number): Float32Array;
  /** `torch.randn(count)` in float32, to 5e-7 (PyTorch's vectorised logarithm and cosine round differently) */
  normal(count: number, mean?: number, std?: number): Float32Array;
}

const SIZE = 624;
const SHIFT = 397;

/**
 * The sequences of `torch.Generator("cpu").manual_seed(seed)`, for reading adapter files that store a seed
 * instead of tensors (FourierFT, WaveFT, VeRA). For anything else use `rng`.
 *
 * @param seed integer in [0, 2^32)
 * @throws `config-invalid` when the seed or a range is invalid.
 * @example
 * ```ts
 * import { mt19937 } from "tunesmith/runtime";
 * const positions = mt19937(777).randperm(64 * 64).subarray(0, 1000);
 * ```
 */
export function mt19937(seed: number): Mt19937 {
  if (!Number.isInteger(seed) || seed < 0 || seed >= 2 ** 32)
    invalid(`seed ${seed} is not an integer in [0, 2^32)`);
  const u32 = wordsFrom(seeded(seed));
  return {
    u32,
    randperm: (n) => {
      const out = Int32Array.from({ length: checkCount(n) }, (_, i) => i);
      for (let i = 0; i < n - 1; i++) {
        const j = i + (u32() % (n - i));
        const kept = out[i] as number;
        out[i] = out[j] as number;
        out[j] = kept;
      }
      return out;
    },
    randint: (low, high, count) => {
      if (!Number.isInteger(low) || !Number.isInteger(high) || high <= low || high - low > 2 ** 32 - 1) {
        invalid(`randint: [${low}, ${high}) is not a range of 32-bit width`);
      }
      return Int32Array.from({ length: checkCount(count) }, () => low + (u32() % (high - low)));
    },
    uniform: (count, low = 0, high = 1) => uniform24(u32, new Float32Array(checkCount(count)), low, high),
    normal: (count, mean = 0, std = 1) =>
      checkCount(count) < 16 ? normalShort(u32, count, mean, std) : normalBlocks(u32, count, mean, std),
  };
}

/** The generator's output, 32 bits at a time; `state` is used up. */
export function wordsFrom(state: Uint32Array): () => number {
  let index = SIZE;
  return () => {
    if (index === SIZE) {
      twist(state);
      index = 0;
    }
    return temper(state[index++] as number);
  };
}

/** Knuth's initialisation, `init_genrand`. */
export function seeded(seed: number): Uint32Array {
  const state = new Uint32Array(SIZE);
  state[0] = seed;
  for (let i = 1; i < SIZE; i++) {
    const previous = state[i - 1] as number;
    state[i] = Math.imul(1812433253, previous ^ (previous >>> 30)) + i;
  }
  return state;
}

function twist(state: Uint32Array): void {
  for (let i = 0; i < SIZE; i++) {
    const y = ((state[i] as number) & 0x80000000) | ((state[(i + 1) % SIZE] as number) & 0x7fffffff);
    state[i] = (state[(i + SHIFT) % SIZE] as number) ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
  }
}

function temper(word: number): number {
  let y = word;
  y ^= y >>> 11;
  y ^= (y << 7) & 0x9d2c5680;
  y ^= (y << 15) & 0xefc60000;
  y ^= y >>> 18;
  return y >>> 0;
}

/** Float32 uniforms of 24 bits; every step rounds to single precision as PyTorch's does. */
function uniform24(u32: () => number, out: Float32Array, low: number, high: number): Float32Array {
  const range = Math.fround(Math.fround(high) - Math.fround(low));
  for (let i = 0; i < out.length; i++) {
    const unit = Math.fround((u32() & 0xffffff) * 2 ** -24);
    out[i] = Math.fround(unit * range) + Math.fround(low);
  }
  return out;
}

/** At least 16 values: Box-Muller on blocks of 16 uniforms; a ragged end redraws the last 16 values. */
function normalBlocks(u32: () => number, count: number, mean: number, std: number): Float32Array {
  const out = uniform24(u32, new Float32Array(count), 0, 1);
  for (let start = 0; start + 16 <= count; start += 16)
    boxMuller16(out.subarray(start, start + 16), mean, std);
  if (count % 16 !== 0) boxMuller16(uniform24(u32, out.subarray(count - 16), 0, 1), mean, std);
  return out;
}

function boxMuller16(values: Float32Array, mean: number, std: number): void {
  for (let j = 0; j < 8; j++) {
    const radius = Math.sqrt(-2 * Math.log(1 - (values[j] as number)));
    const angle = 2 * Math.PI * (values[j + 8] as number);
    values[j] = radius * Math.cos(angle) * std + mean;
    values[j + 8] = radius * Math.sin(angle) * std + mean;
  }
}

/** Fewer than 16 values: pairs of double-precision Box-Muller, as PyTorch's scalar path. */
function normalShort(u32: () => number, count: number, mean: number, std: number): Float32Array {
  const uniform53 = (): number => {
    const high = u32() % 2 ** 21;
    return (high * 2 ** 32 + u32()) * 2 ** -53;
  };
  const out = new Float32Array(count);
  for (let i = 0; i < count; i += 2) {
    const angle = 2 * Math.PI * uniform53();
    const radius = Math.sqrt(-2 * Math.log1p(-uniform53()));
    out[i] = radius * Math.cos(angle) * std + mean;
    if (i + 1 < count) out[i + 1] = radius * Math.sin(angle) * std + mean;
  }
  return out;
}

function checkCount(count: number): number {
  if (!Number.isInteger(count) || count < 0 || count > 2 ** 31 - 1) invalid(`${count} is not a count`);
  return count;
}

function invalid(problem: string): never {
  throw new TunesmithError("config-invalid", `mt19937: ${problem}`, { fix: "correct the argument" });
}
