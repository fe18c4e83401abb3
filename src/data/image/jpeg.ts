import jpeg from "jpeg-js";
import type { Image } from "./image.js";

/** What the headers of a JPEG file say that matters after decoding. */
interface Layout {
  readonly components: number;
  /** How many pixels share a colour value, across and down. */
  readonly across: number;
  readonly down: number;
  /** Colours are RGB already. */
  readonly isRgb: boolean;
  /** Where the byte of Adobe's mark stands that tells the kind of colours. */
  readonly adobe: number | undefined;
}

/**
 * Decodes a JPEG file. Subsampled colours are interpolated as libjpeg does by default ("fancy upsampling"), so that models see
 * the pixels they were trained on; jpeg-js itself repeats them.
 */
export function decodeJpeg(bytes: Uint8Array, maxPixels: number): Image {
  const { components, across, down, isRgb, adobe } = layoutOf(bytes);
  const file = components === 3 && adobe !== undefined ? bytes.slice() : bytes;
  // With this mark the decoder would turn colours into RGB before they can be interpolated.
  if (file !== bytes) file[adobe as number] = 0;
  const { width, height, data } = jpeg.decode(file, {
    useTArray: true,
    formatAsRGBA: false,
    maxResolutionInMP: maxPixels / 1e6,
    tolerantDecoding: false,
    ...(components === 3 ? { colorTransform: false } : {}),
  });
  if (components === 3 && !isRgb) {
    const plane = (channel: number): Uint8Array => {
      const small = subsampled(data, width, height, channel, across, down);
      return interpolated(small, width, height, across, down);
    };
    toRgb(data, plane(1), plane(2));
  }
  return { width, height, channels: 3, data };
}

function layoutOf(bytes: Uint8Array): Layout {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let adobe: number | undefined;
  for (let at = 2; at + 4 < bytes.length && bytes[at] === 0xff; ) {
    const marker = bytes[at + 1] as number;
    const size = view.getUint16(at + 2);
    if (marker === 0xee && size >= 14) adobe = at + 15;
    // Start of frame, of whatever kind; not the tables with numbers among them.
    if (marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker)) {
      const byte = (component: number, field: number) => bytes[at + 10 + 3 * component + field] ?? 0;
      const ratio = (shift: number) => ((byte(0, 1) >> shift) & 15) / Math.max(1, (byte(1, 1) >> shift) & 15);
      // As libjpeg decides: Adobe's mark, else components that are named R, G and B.
      const isNamedRgb = byte(0, 0) === 82 && byte(1, 0) === 71 && byte(2, 0) === 66;
      const isRgb = adobe === undefined ? isNamedRgb : bytes[adobe] === 0;
      return { components: bytes[at + 9] as number, across: ratio(4), down: ratio(0), isRgb, adobe };
    }
    at += 2 + size;
  }
  return { components: 0, across: 1, down: 1, isRgb: false, adobe };
}

interface Plane {
  readonly width: number;
  readonly height: number;
  readonly data: Uint8Array;
}

/** The values of a channel before they were repeated. */
function subsampled(
  data: Uint8Array,
  width: number,
  height: number,
  channel: number,
  across: number,
  down: number,
): Plane {
  const [small, low] = [Math.ceil(width / across), Math.ceil(height / down)];
  const out = new Uint8Array(small * low);
  for (let y = 0; y < low; y++) {
    for (let x = 0; x < small; x++) {
      out[y * small + x] = data[
        3 * (Math.ceil(y * down) * width + Math.ceil(x * across)) + channel
      ] as number;
    }
  }
  return { width: small, height: low, data: out };
}

/** libjpeg's triangle filter for halved colours, in its whole numbers; other ratios are repeated, as it does. */
function interpolated(plane: Plane, width: number, height: number, across: number, down: number): Uint8Array {
  const smooth = across === 2 && (down === 1 || down === 2) && plane.width > 2;
  const out = new Uint8Array(width * height);
  for (let y = 0; y < height; y++) {
    const row = Math.min(plane.height - 1, Math.floor(y / down));
    // The row that is second nearest; at the border the same.
    const beside = Math.min(plane.height - 1, Math.max(0, y % 2 === 0 ? row - 1 : row + 1));
    const sum = (x: number) => {
      const value = plane.data[row * plane.width + x] as number;
      return down === 2 ? 3 * value + (plane.data[beside * plane.width + x] as number) : value;
    };
    for (let x = 0; x < width; x++) {
      const column = Math.min(plane.width - 1, Math.floor(x / across));
      if (!smooth) out[y * width + x] = plane.data[row * plane.width + column] as number;
      else {
        const other = Math.min(plane.width - 1, Math.max(0, x % 2 === 0 ? column - 1 : column + 1));
        const weighed = 3 * sum(column) + sum(other);
        const even = x % 2 === 0;
        out[y * width + x] = down === 2 ? (weighed + (even ? 8 : 7)) >> 4 : (weighed + (even ? 1 : 2)) >> 2;
      }
    }
  }
  return out;
}

/** ITU-R 601 in 16-bit fixed point, as libjpeg's tables; `data` holds Y in its first channel and is written over. */
function toRgb(data: Uint8Array, blue: Uint8Array, red: Uint8Array): void {
  const fix = (value: number) => Math.round(value * 65536);
  const [r, g1, g2, b] = [fix(1.402), fix(0.344136286), fix(0.714136286), fix(1.772)];
  const clip = (value: number) => Math.min(255, Math.max(0, value));
  for (let pixel = 0; pixel < blue.length; pixel++) {
    const y = data[3 * pixel] as number;
    const [cb, cr] = [(blue[pixel] as number) - 128, (red[pixel] as number) - 128];
    data[3 * pixel] = clip(y + ((r * cr + 32768) >> 16));
    data[3 * pixel + 1] = clip(y + ((-g1 * cb - g2 * cr + 32768) >> 16));
    data[3 * pixel + 2] = clip(y + ((b * cb + 32768) >> 16));
  }
}
