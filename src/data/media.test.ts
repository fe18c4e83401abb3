import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import {
  centerCrop,
  decodeImage,
  decodeWav,
  type Image,
  image,
  imageTensor,
  logMel,
  mono,
  processImages,
  type Resampling,
  resample,
  resizeImage,
  withChannels,
} from "./index.js";

interface Coded {
  readonly name: string;
  readonly file: string;
  readonly data: string;
}
const fixture = JSON.parse(readFileSync("fixtures/data/media.json", "utf8")) as {
  source: { width: number; height: number; data: string };
  luma: string;
  resized: { width: number; height: number; resampling: Resampling; data: string }[];
  png: Coded[];
  jpeg: Coded[];
  clip: { config: object; data: string };
  sound: string;
  rates: { from: number; to: number; data: string }[];
  spectrograms: { mels: number; length: number; data: string }[];
};
const bytes = (text: string) => new Uint8Array(Buffer.from(text, "base64"));
const floats = (text: string) => new Float32Array(bytes(text).buffer);
const source = image(fixture.source.width, fixture.source.height, 3, bytes(fixture.source.data));
const sound = floats(fixture.sound);

const largestDifference = (a: ArrayLike<number>, b: ArrayLike<number>) => {
  expect(a.length).toBe(b.length);
  return Array.from(a).reduce(
    (most, value, at) => Math.max(most, Math.abs(value - (b[at] ?? Number.NaN))),
    0,
  );
};

test("resizing gives Pillow's pixels", () => {
  for (const { width, height, resampling, data } of fixture.resized) {
    const resized = resizeImage(source, { width, height }, resampling);
    expect(resized).toMatchObject({ width, height, channels: 3 });
    expect(largestDifference(resized.data, bytes(data)), `${resampling} ${width} x ${height}`).toBe(0);
  }
  expect(() => resizeImage(source, { width: 0, height: 3 })).toThrow(/not possible/);
});

test("grey is weighed as Pillow does; crops are in the middle, padded with black", () => {
  expect(withChannels(source, 1).data).toEqual(bytes(fixture.luma));
  const grey = image(2, 1, 1, Uint8Array.of(7, 9));
  expect(withChannels(grey, 3).data).toEqual(Uint8Array.of(7, 7, 7, 9, 9, 9));
  const line: Image = image(5, 1, 1, Uint8Array.of(1, 2, 3, 4, 5));
  expect(centerCrop(line, { width: 2, height: 1 }).data).toEqual(Uint8Array.of(2, 3));
  expect(centerCrop(line, { width: 7, height: 3 }).data).toEqual(
    Uint8Array.of(0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 0, 0, 0, 0, 0, 0, 0, 0),
  );
  expect(() => image(2, 2, 3, new Uint8Array(5))).toThrow(/no image/);
});

test("PNG of every kind decodes to Pillow's pixels", () => {
  for (const { name, file, data } of fixture.png) {
    expect(largestDifference(decodeImage(bytes(file)).data, bytes(data)), name).toBe(0);
  }
});

test("JPEG decodes to libjpeg's pixels within rounding, subsampled colours too", () => {
  for (const { name, file, data } of fixture.jpeg) {
    const [decoded, expected] = [decodeImage(bytes(file)).data, bytes(data)];
    expect(largestDifference(decoded, expected), name).toBeLessThanOrEqual(4);
    const sum = decoded.reduce((total, value, at) => total + Math.abs(value - (expected[at] ?? 0)), 0);
    expect(sum / decoded.length, name).toBeLessThan(0.7);
  }
});

test("JPEG: Adobe's mark says whether colours are RGB", () => {
  const plain = bytes(fixture.jpeg[0]?.file ?? "");
  const marked = (kind: number) => {
    const mark = Uint8Array.of(
      0xff,
      0xee,
      0,
      14,
      ...new TextEncoder().encode("Adobe"),
      0,
      100,
      0,
      0,
      0,
      0,
      kind,
    );
    return Uint8Array.of(...plain.slice(0, 2), ...mark, ...plain.slice(2));
  };
  expect(decodeImage(marked(1)).data).toEqual(decodeImage(plain).data);
  expect(decodeImage(marked(0)).data).not.toEqual(decodeImage(plain).data);
});

test("other and damaged images are refused", () => {
  expect(() => decodeImage(new TextEncoder().encode("GIF89a"), "x.gif")).toThrow(/x\.gif is neither/);
  const png = bytes(fixture.png[0]?.file ?? "");
  expect(() => decodeImage(png.slice(0, 200), "cut.png")).toThrow(/cut\.png cannot be decoded/);
  const jpeg = bytes(fixture.jpeg[0]?.file ?? "");
  expect(() => decodeImage(jpeg.slice(0, 100), "cut.jpg")).toThrow(/cut\.jpg cannot be decoded/);
  const huge = png.slice();
  new DataView(huge.buffer).setUint32(16, 100_000_000);
  expect(() => decodeImage(huge, "huge.png")).toThrow(/pixels/);
});

test("image processors: shortest edge, crop, scale, normalise", () => {
  const pixels = processImages([source, source], fixture.clip.config);
  expect(pixels.shape).toEqual([2, 3, 16, 16]);
  const one = floats(fixture.clip.data);
  expect(largestDifference(pixels.data as Float32Array, [...one, ...one])).toBeLessThan(1e-5);
  expect(processImages([source], { size: { height: 8, width: 6 } }).shape).toEqual([1, 3, 8, 6]);
  expect(() => processImages([source], { size: { height: -1, width: 6 } })).toThrow(/size/);
  expect(() => imageTensor([source, withChannels(source, 1)])).toThrow(/image 1 is/);
  expect(() => imageTensor([])).toThrow(/no images/);
});

test("resampling gives scipy's samples", () => {
  for (const { from, to, data } of fixture.rates) {
    expect(largestDifference(resample(sound, from, to), floats(data)), `${from} to ${to}`).toBeLessThan(1e-6);
  }
  expect(resample(sound, 8000, 8000)).toBe(sound);
  expect(() => resample(sound, 0, 8000)).toThrow(/cannot resample/);
});

test("log-mel spectrograms are those of Whisper's feature extractor", () => {
  for (const { mels, length, data } of fixture.spectrograms) {
    const spectrogram = logMel(sound, { mels, length });
    expect(spectrogram.shape).toEqual([mels, length / 160]);
    expect(largestDifference(spectrogram.data as Float32Array, floats(data)), `${mels}`).toBeLessThan(1e-4);
  }
  expect(() => logMel(new Float32Array(100))).toThrow(/shorter than half a frame/);
});

/** A WAV file with these chunks. */
function wav(
  format: readonly number[],
  samples: Uint8Array,
  extra: Uint8Array = new Uint8Array(0),
): Uint8Array {
  const [encoding = 1, channels = 1, rate = 8000, bits = 16] = format;
  const head = new DataView(new ArrayBuffer(44));
  const put = (at: number, text: string) =>
    new Uint8Array(head.buffer).set(new TextEncoder().encode(text), at);
  put(0, "RIFF");
  put(8, "WAVEfmt ");
  head.setUint32(16, 16, true);
  head.setUint16(20, encoding, true);
  head.setUint16(22, channels, true);
  head.setUint32(24, rate, true);
  head.setUint16(34, bits, true);
  put(36, "data");
  head.setUint32(40, samples.length, true);
  const file = new Uint8Array(44 + extra.length + samples.length);
  file.set(new Uint8Array(head.buffer).subarray(0, 36));
  file.set(extra, 36);
  file.set(new Uint8Array(head.buffer).subarray(36), 36 + extra.length);
  file.set(samples, 44 + extra.length);
  return file;
}

test("WAV: every sample width, several channels, other chunks in between", () => {
  const decoded = (format: number[], samples: Uint8Array) => [...mono(decodeWav(wav(format, samples)))];
  expect(decoded([1, 1, 8000, 8], Uint8Array.of(0, 128, 255))).toEqual([-1, 0, 127 / 128]);
  expect(decoded([1, 1, 8000, 16], Uint8Array.of(0, 128, 255, 127))).toEqual([
    -1,
    Math.fround(32767 / 32768),
  ]);
  expect(decoded([1, 1, 8000, 24], Uint8Array.of(0, 0, 128, 0, 0, 64))).toEqual([-1, 0.5]);
  expect(decoded([1, 1, 8000, 32], Uint8Array.of(0, 0, 0, 128, 0, 0, 0, 64))).toEqual([-1, 0.5]);
  expect(decoded([3, 1, 8000, 32], new Uint8Array(Float32Array.of(0.25, -2).buffer))).toEqual([0.25, -2]);
  expect(decoded([3, 1, 8000, 64], new Uint8Array(Float64Array.of(0.25).buffer))).toEqual([0.25]);
  const list = Uint8Array.of(0x4c, 0x49, 0x53, 0x54, 3, 0, 0, 0, 1, 2, 3, 0);
  const stereo = decodeWav(wav([1, 2, 44100, 8], Uint8Array.of(0, 128, 128, 0), list));
  expect(stereo.sampleRate).toBe(44100);
  expect(stereo.channels.map((channel) => [...channel])).toEqual([
    [-1, 0],
    [0, -1],
  ]);
  expect([...mono(stereo)]).toEqual([-0.5, -0.5]);
});

test("other and damaged sounds are refused", () => {
  const code = (file: Uint8Array) => {
    try {
      return decodeWav(file, "a.wav") && "none";
    } catch (error) {
      return (error as { code: string }).code;
    }
  };
  expect(code(new TextEncoder().encode("ID3....................................."))).toBe(
    "format-unsupported",
  );
  expect(code(wav([7, 1, 8000, 8], Uint8Array.of(1)))).toBe("format-unsupported");
  expect(code(wav([1, 1, 8000, 16], new Uint8Array(0)))).toBe("file-corrupt");
  expect(code(wav([1, 0, 8000, 16], Uint8Array.of(1, 2)))).toBe("file-corrupt");
  expect(code(wav([1, 1, 8000, 16], Uint8Array.of(1, 2)).slice(0, 30))).toBe("file-corrupt");
});
