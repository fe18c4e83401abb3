import { TunesmithError } from "../../errors/index.js";
import type { Image } from "./image.js";

/** `bilinear`, `bicubic` and `lanczos` average over all source pixels when an image shrinks (anti-aliasing). */
export type Resampling = "nearest" | "bilinear" | "bicubic" | "lanczos";

interface Filter {
  readonly support: number;
  weight(x: number): number;
}

const sinc = (x: number) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));

const FILTERS: Readonly<Record<Exclude<Resampling, "nearest">, Filter>> = {
  bilinear: { support: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) },
  bicubic: {
    support: 2,
    // Keys 1981 with a = -0.5.
    weight(x) {
      const t = Math.abs(x);
      if (t < 1) return (1.5 * t - 2.5) * t * t + 1;
      return t < 2 ? ((t - 5) * t + 8) * t * -0.5 + 2 : 0;
    },
  },
  lanczos: { support: 3, weight: (x) => (Math.abs(x) < 3 ? sinc(x) * sinc(x / 3) : 0) },
};

/** Bits behind the point of Pillow's whole-number weights. */
const PRECISION = 22;

/**
 * Resizes an image to the same 8-bit pixels as Pillow's `Image.resize`. Throws `config-invalid` for a size below one pixel.
 *
 * @param resampling Default `bilinear`.
 *
 * @example
 * ```ts
 * import { decodeImage, resizeImage } from "tunesmith/data";
 * const small = (bytes: Uint8Array) => resizeImage(decodeImage(bytes), { width: 224, height: 224 }, "bicubic");
 * ```
 */
export function resizeImage(
  source: Image,
  size: { readonly width: number; readonly height: number },
  resampling: Resampling = "bilinear",
): Image {
  const { width, height } = size;
  if (![width, height].every((pixels) => Number.isInteger(pixels) && pixels >= 1)) {
    throw new TunesmithError("config-invalid", `an image of ${width} x ${height} pixels is not possible`, {
      fix: "give whole numbers of at least 1",
    });
  }
  if (resampling === "nearest") return nearest(source, width, height);
  const filter = FILTERS[resampling];
  // Pillow's order: first along rows, rounded to 8 bits, then along columns.
  const wide = width === source.width ? source : alongRows(source, width, filter);
  return height === wide.height ? wide : alongColumns(wide, height, filter);
}

interface Weights {
  readonly starts: Int32Array;
  readonly counts: Int32Array;
  /** `[out, most]` */
  readonly values: Int32Array;
  readonly most: number;
}

/** Which source pixels make an output pixel, and their weights in fixed point. */
function weightsOf(inSize: number, outSize: number, { support, weight }: Filter): Weights {
  const scale = inSize / outSize;
  const stretch = Math.max(scale, 1);
  const radius = support * stretch;
  const most = Math.ceil(radius) * 2 + 1;
  const starts = new Int32Array(outSize);
  const counts = new Int32Array(outSize);
  const values = new Int32Array(outSize * most);
  for (let out = 0; out < outSize; out++) {
    const center = (out + 0.5) * scale;
    const start = Math.max(0, Math.trunc(center - radius + 0.5));
    const count = Math.min(inSize, Math.trunc(center + radius + 0.5)) - start;
    const raw = Array.from({ length: count }, (_, x) => weight((x + start - center + 0.5) / stretch));
    const sum = raw.reduce((total, value) => total + value, 0);
    starts[out] = start;
    counts[out] = count;
    raw.forEach((value, x) => {
      const share = sum === 0 ? value : value / sum;
      values[out * most + x] = Math.trunc(share * 2 ** PRECISION + (share < 0 ? -0.5 : 0.5));
    });
  }
  return { starts, counts, values, most };
}

const clip = (sum: number) => Math.min(255, Math.max(0, sum >> PRECISION));

function alongRows(source: Image, width: number, filter: Filter): Image {
  const { height, channels, data } = source;
  const { starts, counts, values, most } = weightsOf(source.width, width, filter);
  const out = new Uint8Array(width * height * channels);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const from = (y * source.width + (starts[x] as number)) * channels;
      for (let channel = 0; channel < channels; channel++) {
        let sum = 1 << (PRECISION - 1);
        for (let at = 0; at < (counts[x] as number); at++) {
          sum += (data[from + at * channels + channel] as number) * (values[x * most + at] as number);
        }
        out[(y * width + x) * channels + channel] = clip(sum);
      }
    }
  }
  return { width, height, channels, data: out };
}

function alongColumns(source: Image, height: number, filter: Filter): Image {
  const { width, channels, data } = source;
  const { starts, counts, values, most } = weightsOf(source.height, height, filter);
  const line = width * channels;
  const out = new Uint8Array(line * height);
  for (let y = 0; y < height; y++) {
    const from = (starts[y] as number) * line;
    for (let x = 0; x < line; x++) {
      let sum = 1 << (PRECISION - 1);
      for (let at = 0; at < (counts[y] as number); at++) {
        sum += (data[from + at * line + x] as number) * (values[y * most + at] as number);
      }
      out[y * line + x] = clip(sum);
    }
  }
  return { width, height, channels, data: out };
}

function nearest(source: Image, width: number, height: number): Image {
  const { channels, data } = source;
  const out = new Uint8Array(width * height * channels);
  const place = (at: number, from: number, to: number) =>
    Math.min(from - 1, Math.floor(((at + 0.5) * from) / to));
  for (let y = 0; y < height; y++) {
    const row = place(y, source.height, height) * source.width;
    for (let x = 0; x < width; x++) {
      const from = (row + place(x, source.width, width)) * channels;
      out.set(data.subarray(from, from + channels), (y * width + x) * channels);
    }
  }
  return { width, height, channels, data: out };
}
