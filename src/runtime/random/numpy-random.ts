import { TunesmithError } from "../../errors/index.js";
import { seeded, wordsFrom } from "./mt19937.js";

/** NumPy's `RandomState`. */
export interface NumpyRandom {
  /** `random_sample()`: a double in [0, 1). */
  double(): number;
  /** `choice(n, count, replace=False, p=[1 / n] * n)`: different indices below n, as drawn with weights. */
  choice(n: number, count: number): number[];
}

/**
 * The sequences of `numpy.random.RandomState(seed)`, for reproducing choices that Python programs made (the rows a
 * k-means of scikit-learn starts from). For anything else use `rng`.
 *
 * @param seed integer in [0, 2^32)
 * @throws `config-invalid` for another seed, or a choice of more than there are.
 * @example
 * ```ts
 * import { numpyRandom } from "tunesmith/runtime";
 * const rows = numpyRandom(123456789).choice(768, 5);
 * ```
 */
export function numpyRandom(seed: number): NumpyRandom {
  if (!Number.isInteger(seed) || seed < 0 || seed >= 2 ** 32)
    invalid(`seed ${seed} is not an integer in [0, 2^32)`);
  const u32 = wordsFrom(seeded(seed));
  const double = () => {
    const high = u32() >>> 5;
    return (high * 2 ** 26 + (u32() >>> 6)) * 2 ** -53;
  };
  return {
    double,
    choice(n, count) {
      if (!Number.isInteger(count) || count < 0 || count > n) invalid(`a choice of ${count} from ${n}`);
      const left = new Float64Array(n).fill(1);
      const chosen: number[] = [];
      // Draws are made for all that are missing at once; of those that fall together the first counts.
      while (chosen.length < count) {
        const ends = cumulative(left);
        const draws = Array.from({ length: count - chosen.length }, double);
        for (const at of new Set(draws.map((draw) => ends.findIndex((end) => end > draw)))) {
          chosen.push(at);
          left[at] = 0;
        }
      }
      return chosen;
    },
  };
}

/** Ends of intervals of these lengths, side by side from 0 to 1. */
function cumulative(weights: Float64Array): Float64Array {
  let sum = 0;
  const ends = weights.map((weight) => {
    sum += weight;
    return sum;
  });
  return ends.map((end) => end / sum);
}

function invalid(problem: string): never {
  throw new TunesmithError("config-invalid", `numpyRandom: ${problem}`, { fix: "correct the argument" });
}
