import { TunesmithError } from "../../errors/index.js";

/** Pixels of 8 bits, row by row, channels interleaved: `[height, width, channels]`. */
export interface Image {
  readonly width: number;
  readonly height: number;
  /** 1 (grey) or 3 (RGB). */
  readonly channels: 1 | 3;
  readonly data: Uint8Array;
}

/** An image over given pixels. Throws `shape-mismatch` when their number does not fit. */
export function image(width: number, height: number, channels: 1 | 3, data: Uint8Array): Image {
  if (data.length === width * height * channels) return { width, height, channels, data };
  throw new TunesmithError(
    "shape-mismatch",
    `${data.length} bytes are no image of ${width} x ${height} pixels with ${channels} channels`,
    { fix: "give width * height * channels bytes" },
  );
}

/** The image with another number of channels: grey as ITU-R 601 weighs colours (in Pillow's whole numbers), or grey thrice. */
export function withChannels(source: Image, channels: 1 | 3): Image {
  if (source.channels === channels) return source;
  const { width, height, data } = source;
  const pixels = width * height;
  const out = new Uint8Array(pixels * channels);
  for (let pixel = 0; pixel < pixels; pixel++) {
    if (channels === 3) out.fill(data[pixel] as number, 3 * pixel, 3 * pixel + 3);
    else {
      const [r, g, b] = [data[3 * pixel], data[3 * pixel + 1], data[3 * pixel + 2]] as [
        number,
        number,
        number,
      ];
      out[pixel] = (r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16;
    }
  }
  return { width, height, channels, data: out };
}

/**
 * The middle of an image; where it is smaller than what is asked for, black is added. Offsets are rounded down, as the
 * image processors of `transformers` do.
 */
export function centerCrop(source: Image, size: { readonly width: number; readonly height: number }): Image {
  const { width, height, channels, data } = source;
  const out = new Uint8Array(size.width * size.height * channels);
  // Padding is rounded up on the top and left, cropping down.
  const offset = (have: number, want: number) =>
    have >= want ? Math.floor((have - want) / 2) : -Math.ceil((want - have) / 2);
  const [top, left] = [offset(height, size.height), offset(width, size.width)];
  const [from, to] = [Math.max(0, left), Math.min(width, left + size.width)];
  for (let y = 0; y < size.height; y++) {
    const row = y + top;
    if (row < 0 || row >= height) continue;
    const start = (row * width + from) * channels;
    out.set(data.subarray(start, start + (to - from) * channels), (y * size.width + from - left) * channels);
  }
  return { width: size.width, height: size.height, channels, data: out };
}
