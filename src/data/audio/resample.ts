import { TunesmithError } from "../../errors/index.js";

/** Zero crossings of the filter on each side, and its window: as `scipy.signal.resample_poly`. */
const CROSSINGS = 10;
const KAISER_BETA = 5;
/** Rates whose quotient in lowest terms exceeds this would need a filter of millions of taps. */
const MAX_RATE = 100_000;

/**
 * Changes the sample rate by a polyphase filter (Kaiser-windowed sinc), to the same numbers as scipy's `resample_poly`.
 *
 * @param samples float32 `[samples]`
 * @returns float32 `[ceil(samples * to / from)]`
 *
 * Throws `config-invalid` for rates that are no whole numbers above 0.
 */
export function resample(samples: Float32Array, from: number, to: number): Float32Array {
  const divisor = gcd(from, to);
  const [up, down] = [to / divisor, from / divisor];
  const sane =
    [from, to].every((rate) => Number.isInteger(rate) && rate > 0) && Math.max(up, down) <= MAX_RATE;
  if (!sane) {
    throw new TunesmithError("config-invalid", `cannot resample from ${from} to ${to} Hz`, {
      fix: "give usual rates, such as 16000 or 44100",
    });
  }
  if (up === down) return samples;
  const half = CROSSINGS * Math.max(up, down);
  const taps = lowPass(half, 1 / Math.max(up, down), up);
  const out = new Float32Array(Math.ceil((samples.length * up) / down));
  for (let index = 0; index < out.length; index++) {
    // Tap t of output index meets sample (index * down + half - t) / up where that is whole.
    const place = index * down + half;
    const last = Math.min(samples.length - 1, Math.floor(place / up));
    let sum = 0;
    for (let at = last; at >= 0; at--) {
      const tap = place - at * up;
      if (tap >= taps.length) break;
      sum += (samples[at] as number) * (taps[tap] as number);
    }
    out[index] = sum;
  }
  return out;
}

const gcd = (a: number, b: number): number => (b === 0 || !Number.isFinite(a + b) ? a : gcd(b, a % b));

/** `2 * half + 1` taps of a low pass at `cutoff` (of half the rate) whose sum is `gain`. */
function lowPass(half: number, cutoff: number, gain: number): Float64Array {
  const taps = Float64Array.from({ length: 2 * half + 1 }, (_, at) => {
    const x = Math.PI * cutoff * (at - half);
    const window = besselI0(KAISER_BETA * Math.sqrt(Math.max(0, 1 - ((at - half) / half) ** 2)));
    return (x === 0 ? 1 : Math.sin(x) / x) * window;
  });
  const sum = taps.reduce((total, tap) => total + tap, 0);
  return taps.map((tap) => (tap * gain) / sum);
}

/** Modified Bessel function of order 0, by its series. */
function besselI0(x: number): number {
  let [sum, term] = [1, 1];
  for (let k = 1; term > 1e-18 * sum; k++) {
    term *= (x / (2 * k)) ** 2;
    sum += term;
  }
  return sum;
}
