import { type DecodedPng, decode as decodePng } from "fast-png";
import { TunesmithError } from "../../errors/index.js";
import type { Image } from "./image.js";
import { decodeJpeg } from "./jpeg.js";

/** Larger images are refused before anything is allocated for them. */
const MAX_PIXELS = 100_000_000;

/**
 * Decodes a PNG or JPEG file (by its first bytes) to RGB, as Pillow's `convert("RGB")`: palettes are looked up, grey is
 * repeated, an alpha channel is dropped, 16 bits become the upper 8. JPEG differs from libjpeg by a level or two of rounding.
 *
 * Throws `format-unsupported` for other files and images above 100 million pixels, `file-corrupt` for damaged ones.
 *
 * @param name Stands for the file in errors.
 *
 * @example
 * ```ts
 * import { decodeImage } from "tunesmith/data";
 * const response = await fetch("cat.jpg");
 * const { width, height, data } = decodeImage(new Uint8Array(await response.arrayBuffer()), "cat.jpg");
 * ```
 */
export function decodeImage(bytes: Uint8Array, name = "image"): Image {
  const isPng = bytes[0] === 0x89 && bytes[1] === 0x50;
  const isJpeg = bytes[0] === 0xff && bytes[1] === 0xd8;
  if (!isPng && !isJpeg) {
    throw new TunesmithError("format-unsupported", `${name} is neither PNG nor JPEG`, {
      fix: "convert the image to PNG or JPEG",
    });
  }
  try {
    return isPng ? fromPng(bytes, name) : decodeJpeg(bytes, MAX_PIXELS);
  } catch (cause) {
    if (cause instanceof TunesmithError) throw cause;
    throw new TunesmithError("file-corrupt", `${name} cannot be decoded: ${(cause as Error).message}`, {
      fix: "the file is damaged: save or copy it again",
      cause,
    });
  }
}

function fromPng(bytes: Uint8Array, name: string): Image {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.byteLength < 33) throw new Error("it ends in its header");
  if (view.getUint32(16) * view.getUint32(20) > MAX_PIXELS) {
    throw new TunesmithError("format-unsupported", `${name} has more than ${MAX_PIXELS} pixels`, {
      fix: "make the image smaller",
    });
  }
  const png = decodePng(bytes, { checkCrc: true });
  const { width, height } = png;
  const data = new Uint8Array(width * height * 3);
  const at = pixelReader(png);
  const colours = png.palette !== undefined || png.channels < 3 ? 1 : 3;
  for (let pixel = 0; pixel < width * height; pixel++) {
    for (let channel = 0; channel < 3; channel++) {
      data[3 * pixel + channel] = at(pixel, channel < colours || png.palette ? channel : 0);
    }
  }
  return { width, height, channels: 3, data };
}

/** The 8-bit value of a channel of a pixel. */
function pixelReader(png: DecodedPng): (pixel: number, channel: number) => number {
  const { data, channels, depth, palette, width } = png;
  const shift = depth === 16 ? 8 : 0;
  if (depth >= 8) {
    if (palette) return (pixel, channel) => palette[data[pixel] as number]?.[channel] ?? 0;
    return (pixel, channel) => (data[pixel * channels + channel] as number) >> shift;
  }
  // Several pixels share a byte; rows begin at whole bytes.
  const rowBytes = Math.ceil((width * depth) / 8);
  const most = 2 ** depth - 1;
  return (pixel, channel) => {
    const bit = (pixel % width) * depth;
    const byte = data[Math.floor(pixel / width) * rowBytes + (bit >> 3)] as number;
    const value = (byte >> (8 - depth - (bit & 7))) & most;
    return palette ? (palette[value]?.[channel] ?? 0) : (value * 255) / most;
  };
}
