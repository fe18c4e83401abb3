import { TunesmithError } from "../../errors/index.js";

/** Sound as samples in [-1, 1]. */
export interface Sound {
  /** Samples per second. */
  readonly sampleRate: number;
  /** float32 `[samples]` of each channel. */
  readonly channels: readonly Float32Array[];
}

const PCM = 1;
const FLOAT = 3;
const EXTENSIBLE = 0xfffe;
const MAX_CHANNELS = 64;

/**
 * Decodes a WAV file: PCM of 8, 16, 24 or 32 bits, or float of 32 or 64. Whole numbers are divided by 2^(bits - 1).
 *
 * Throws `format-unsupported` for other files and encodings, `file-corrupt` for damaged ones.
 *
 * @param name Stands for the file in errors.
 *
 * @example
 * ```ts
 * import { decodeWav, mono, resample } from "tunesmith/data";
 * const at16k = (bytes: Uint8Array) => {
 *   const sound = decodeWav(bytes);
 *   return resample(mono(sound), sound.sampleRate, 16000);
 * };
 * ```
 */
export function decodeWav(bytes: Uint8Array, name = "sound"): Sound {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < 12 || tag(view, 0) !== "RIFF" || tag(view, 8) !== "WAVE") {
    throw unsupported(name, "is no WAV file");
  }
  let format: Format | undefined;
  for (let at = 12; at + 8 <= bytes.length; ) {
    const size = view.getUint32(at + 4, true);
    const start = at + 8;
    if (tag(view, at) === "fmt ") format = formatOf(view, start, size, name);
    else if (tag(view, at) === "data") {
      if (!format) throw corrupt(name, "its samples come before their format");
      // Programs that write to a pipe do not know the length and write a placeholder.
      return samplesOf(view, start, Math.min(size, bytes.length - start), format, name);
    }
    at = start + size + (size % 2);
  }
  throw corrupt(name, "it holds no samples");
}

interface Format {
  readonly encoding: number;
  readonly channels: number;
  readonly sampleRate: number;
  readonly bits: number;
}

const tag = (view: DataView, at: number) =>
  String.fromCharCode(...[0, 1, 2, 3].map((index) => view.getUint8(at + index)));

const corrupt = (name: string, what: string) =>
  new TunesmithError("file-corrupt", `${name}: ${what}`, { fix: "copy or record the file again" });

const unsupported = (name: string, what: string) =>
  new TunesmithError("format-unsupported", `${name} ${what}`, {
    fix: "convert it to WAV with PCM samples, for example: ffmpeg -i FILE out.wav",
  });

function formatOf(view: DataView, at: number, size: number, name: string): Format {
  if (size < 16 || at + size > view.byteLength) throw corrupt(name, "its format is cut off");
  const tagged = view.getUint16(at, true);
  const format = {
    encoding: tagged === EXTENSIBLE && size >= 26 ? view.getUint16(at + 24, true) : tagged,
    channels: view.getUint16(at + 2, true),
    sampleRate: view.getUint32(at + 4, true),
    bits: view.getUint16(at + 14, true),
  };
  const known = format.encoding === PCM ? [8, 16, 24, 32] : format.encoding === FLOAT ? [32, 64] : [];
  if (!known.includes(format.bits)) {
    throw unsupported(name, `has samples of encoding ${format.encoding} with ${format.bits} bits`);
  }
  if (format.channels < 1 || format.channels > MAX_CHANNELS || format.sampleRate < 1) {
    throw corrupt(name, `${format.channels} channels at ${format.sampleRate} Hz`);
  }
  return format;
}

function samplesOf(view: DataView, start: number, size: number, format: Format, name: string): Sound {
  const { channels, sampleRate, bits } = format;
  const width = bits / 8;
  const frames = Math.floor(size / (width * channels));
  if (frames === 0) throw corrupt(name, "it holds no samples");
  const read = reader(view, format);
  return {
    sampleRate,
    channels: Array.from({ length: channels }, (_, channel) =>
      Float32Array.from({ length: frames }, (_, frame) => read(start + (frame * channels + channel) * width)),
    ),
  };
}

function reader(view: DataView, { encoding, bits }: Format): (at: number) => number {
  if (encoding === FLOAT)
    return bits === 32 ? (at) => view.getFloat32(at, true) : (at) => view.getFloat64(at, true);
  // Samples of 8 bits have no sign.
  if (bits === 8) return (at) => (view.getUint8(at) - 128) / 128;
  if (bits === 16) return (at) => view.getInt16(at, true) / 2 ** 15;
  if (bits === 32) return (at) => view.getInt32(at, true) / 2 ** 31;
  return (at) => (view.getUint16(at, true) + view.getInt8(at + 2) * 65536) / 2 ** 23;
}

/** The mean of the channels. */
export function mono({ channels }: Sound): Float32Array {
  const [first] = channels;
  if (!first || channels.length === 1) return first ?? new Float32Array(0);
  return first.map(
    (_, at) => channels.reduce((sum, channel) => sum + (channel[at] as number), 0) / channels.length,
  );
}
