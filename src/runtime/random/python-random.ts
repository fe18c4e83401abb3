import { TunesmithError } from "../../errors/index.js";
import { seeded, wordsFrom } from "./mt19937.js";

/** Python's `random.Random`. */
export interface PythonRandom {
  /** `randrange(n)`, for n below 2^32. */
  below(n: number): number;
  /** `sample(range(n), count)`: different indices below n, in the order drawn. */
  sample(n: number, count: number): number[];
}

/**
 * The sequences of `random.Random(seed)` in Python, for reproducing choices that Python programs made (the examples
 * that evaluation harnesses put before a question). For anything else use `rng`.
 *
 * @param seed integer in [0, 2^32)
 * @throws `config-invalid` for another seed, or a sample larger than what it is drawn from.
 * @example
 * ```ts
 * import { pythonRandom } from "tunesmith/runtime";
 * const chosen = pythonRandom(1234).sample(100, 5);
 * ```
 */
export function pythonRandom(seed: number): PythonRandom {
  if (!Number.isInteger(seed) || seed < 0 || seed >= 2 ** 32) {
    invalid(`seed ${seed} is not an integer in [0, 2^32)`);
  }
  const u32 = wordsFrom(seededByArray([seed]));
  const below = (n: number): number => {
    if (!Number.isInteger(n) || n < 1 || n >= 2 ** 32) invalid(`${n} is not in [1, 2^32)`);
    const bits = Math.floor(Math.log2(n)) + 1;
    for (;;) {
      const value = u32() >>> (32 - bits);
      if (value < n) return value;
    }
  };
  return {
    below,
    sample(n, count) {
      if (!Number.isInteger(count) || count < 0 || count > n) invalid(`a sample of ${count} from ${n}`);
      // Which of two algorithms Python takes depends on sizes alone.
      const table = 21 + (count > 5 ? 4 ** Math.ceil(Math.log(count * 3) / Math.log(4)) : 0);
      if (n > table) {
        const chosen = new Set<number>();
        while (chosen.size < count) chosen.add(below(n));
        return [...chosen];
      }
      const pool = Array.from({ length: n }, (_, at) => at);
      return Array.from({ length: count }, (_, at) => {
        const index = below(n - at);
        const value = pool[index] as number;
        pool[index] = pool[n - at - 1] as number;
        return value;
      });
    },
  };
}

/** The initialisation that Python takes, `init_by_array`. */
function seededByArray(key: readonly number[]): Uint32Array {
  const state = seeded(19650218);
  const size = state.length;
  const at = (index: number) => state[index] as number;
  const mixed = (index: number, factor: number) =>
    at(index) ^ Math.imul(at(index - 1) ^ (at(index - 1) >>> 30), factor);
  let [i, j] = [1, 0];
  const advance = () => {
    i++;
    if (i < size) return;
    state[0] = at(size - 1);
    i = 1;
  };
  for (let left = Math.max(size, key.length); left > 0; left--) {
    state[i] = mixed(i, 1664525) + (key[j] as number) + j;
    advance();
    j = (j + 1) % key.length;
  }
  for (let left = size - 1; left > 0; left--) {
    state[i] = mixed(i, 1566083941) - i;
    advance();
  }
  state[0] = 0x80000000;
  return state;
}

function invalid(problem: string): never {
  throw new TunesmithError("config-invalid", `pythonRandom: ${problem}`, { fix: "correct the argument" });
}
