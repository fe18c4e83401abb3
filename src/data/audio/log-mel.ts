import { TunesmithError } from "../../errors/index.js";
import { type Tensor, tensor } from "../../tensor/index.js";
import { createFft } from "./fft.js";

export interface LogMelOptions {
  /** Hz. Default 16000. */
  readonly sampleRate?: number;
  /** Samples per frame. Default 400 (25 ms). */
  readonly fftSize?: number;
  /** Samples between frames. Default 160 (10 ms). */
  readonly hop?: number;
  /** Frequency bands. Default 80. */
  readonly mels?: number;
  /** Samples the sound is padded with silence or cut to. Default: its own length. Whisper reads 480000 (30 s). */
  readonly length?: number;
}

/**
 * The log-mel spectrogram that Whisper reads (arXiv 2212.04356, section 2.2): Hann window, power, Slaney's mel bands, log10,
 * at most 8 below the greatest, (x + 4) / 4.
 *
 * @param samples float32 `[samples]` at the sample rate.
 * @returns float32 `[mels, floor(length / hop)]`
 *
 * Throws `config-invalid` for sizes below 1, `data-invalid` for a sound shorter than half a frame.
 *
 * @example
 * ```ts
 * import { logMel } from "tunesmith/data";
 * const second = Float32Array.from({ length: 16000 }, (_, at) => Math.sin(at / 10));
 * console.log(logMel(second, { length: 480_000 }).shape); // [80, 3000]
 * ```
 */
export function logMel(samples: Float32Array, options: LogMelOptions = {}): Tensor {
  const { sampleRate = 16000, fftSize = 400, hop = 160, mels = 80 } = options;
  const length = options.length ?? samples.length;
  if (![sampleRate, fftSize, hop, mels].every((size) => Number.isInteger(size) && size >= 1)) {
    throw new TunesmithError("config-invalid", "a spectrogram needs whole numbers of at least 1", {
      fix: "give sampleRate, fftSize, hop and mels so",
    });
  }
  const half = fftSize >> 1;
  if (length <= half) {
    throw new TunesmithError("data-invalid", `a sound of ${length} samples is shorter than half a frame`, {
      fix: `give at least ${half + 1} samples, or a \`length\` to pad to`,
    });
  }
  const frames = Math.floor(length / hop);
  const bins = half + 1;
  const bank = melBank(mels, bins, sampleRate);
  const window = Float64Array.from(
    { length: fftSize },
    (_, at) => 0.5 - 0.5 * Math.cos((2 * Math.PI * at) / fftSize),
  );
  const fft = createFft(fftSize);
  const [frame, power] = [new Float64Array(fftSize), new Float64Array(bins)];
  const out = new Float64Array(mels * frames);
  let most = Number.NEGATIVE_INFINITY;
  for (let index = 0; index < frames; index++) {
    for (let at = 0; at < fftSize; at++) {
      const place = reflected(index * hop + at - half, length);
      frame[at] = (samples[place] ?? 0) * (window[at] as number);
    }
    fft.power(frame, power);
    bank.forEach(({ from, weights }, mel) => {
      let sum = 0;
      for (let bin = 0; bin < weights.length; bin++)
        sum += (weights[bin] as number) * (power[from + bin] as number);
      const level = Math.log10(Math.max(1e-10, sum));
      most = Math.max(most, level);
      out[mel * frames + index] = level;
    });
  }
  const scaled = Float32Array.from(out, (level) => (Math.max(level, most - 8) + 4) / 4);
  return tensor("float32", [mels, frames], scaled);
}

/** Mirrors a place outside at the first or last sample, which is not repeated. */
function reflected(place: number, length: number): number {
  if (place < 0) return -place;
  return place >= length ? 2 * (length - 1) - place : place;
}

interface Band {
  /** First frequency with a weight. */
  readonly from: number;
  readonly weights: readonly number[];
}

/** Slaney's scale: linear below 1000 Hz, logarithmic above. */
const STEP = 200 / 3;
const LOG_FROM = 1000;
const LOG_STEP = Math.log(6.4) / 27;
const toMel = (hertz: number) =>
  hertz < LOG_FROM ? hertz / STEP : LOG_FROM / STEP + Math.log(hertz / LOG_FROM) / LOG_STEP;
const toHertz = (mel: number) =>
  mel < LOG_FROM / STEP ? mel * STEP : LOG_FROM * Math.exp(LOG_STEP * (mel - LOG_FROM / STEP));

/** Triangles of equal area, evenly spaced in mels from 0 to half the sample rate. */
function melBank(mels: number, bins: number, sampleRate: number): Band[] {
  const top = toMel(sampleRate / 2);
  const edges = Array.from({ length: mels + 2 }, (_, index) => toHertz((top * index) / (mels + 1)));
  return Array.from({ length: mels }, (_, mel) => {
    const [low, middle, high] = edges.slice(mel, mel + 3) as [number, number, number];
    const all = Array.from({ length: bins }, (_, bin) => {
      const hertz = (bin * sampleRate) / 2 / (bins - 1);
      const height = Math.min((hertz - low) / (middle - low), (high - hertz) / (high - middle));
      return (Math.max(0, height) * 2) / (high - low);
    });
    const from = Math.max(
      0,
      all.findIndex((weight) => weight > 0),
    );
    return { from, weights: all.slice(from, all.findLastIndex((weight) => weight > 0) + 1) };
  });
}
