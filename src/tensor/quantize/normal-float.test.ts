import { expect, test } from "vitest";
import {
  bytesOf,
  type CodeBits,
  codeBytes,
  dequantizeNormalFloat,
  NF4,
  type NormalFloatLayout,
  normalFloatBits,
  normalFloatLevels,
  normalFloatStorage,
  packCodes,
  quantizeNormalFloat,
  unpackCodes,
} from "../index.js";

const BITS: readonly CodeBits[] = [2, 3, 4, 8];
const wave = (count: number) => Float32Array.from({ length: count }, (_, at) => Math.sin(at * at + 0.3 * at));

test.each(BITS)("%i bits: ascending levels with -1, 0 and 1", (bits) => {
  const levels = [...normalFloatLevels(bits)];
  expect(levels.length).toBe(2 ** bits);
  expect(levels).toEqual(levels.toSorted((a, b) => a - b));
  expect(new Set(levels).size).toBe(2 ** bits);
  expect([levels[0], levels[2 ** (bits - 1) - 1], levels.at(-1)].map((value) => Number(value) + 0)).toEqual([
    -1, 0, 1,
  ]);
});

test("levels of 2 and 3 bits are the paper's, of 4 bits QLoRA's", () => {
  const near = (bits: CodeBits, expected: readonly number[], most: number) =>
    expected.forEach((value, at) => {
      expect(Math.abs(value - Number(normalFloatLevels(bits)[at]))).toBeLessThan(most);
    });
  near(2, [-1, 0, 0.3379, 1], 1e-4);
  near(3, [-1, -0.4786, -0.2171, 0, 0.1609, 0.3379, 0.5626, 1], 1e-4);
  near(4, NF4, 1e-6);
});

test.each(BITS)("%i bits: codes come back from their bytes, whatever their number", (bits) => {
  for (const count of [1, 7, 8, 9, 64, 101]) {
    const codes = Uint8Array.from({ length: count }, (_, at) => (at * 37 + 5) % 2 ** bits);
    const bytes = packCodes(codes, bits);
    expect(bytes.length).toBe(codeBytes(count, bits));
    expect(unpackCodes(bytes, count, bits)).toEqual(codes);
  }
});

const layouts = BITS.flatMap((bits) =>
  BITS.flatMap((scaleBits) =>
    (["float16", "bfloat16", "float32"] as const).map(
      (scaleDtype): NormalFloatLayout => ({ bits, blockSize: 16, scaleBits, superBlock: 32, scaleDtype }),
    ),
  ),
);

test("bits in the formula are those of the packed arrays, and the 32 of the offset", () => {
  const count = 16 * 32 * 4;
  for (const layout of layouts) {
    const { codes, scaleCodes, factors } = quantizeNormalFloat(wave(count), layout);
    const bits = 8 * (codes.byteLength + scaleCodes.byteLength + bytesOf(factors).byteLength) + 32;
    expect(normalFloatStorage(layout, count)).toBe(bits);
    expect(normalFloatBits(layout) * count + 32).toBeCloseTo(bits, 6);
  }
  const usual = { bits: 4, blockSize: 64, scaleBits: 8, superBlock: 256, scaleDtype: "float32" } as const;
  expect(normalFloatBits(usual)).toBeCloseTo(4.127, 3);
  // Three blocks of 8 fill neither their super-block nor the bytes of 2-bit scales.
  const ragged = { ...usual, bits: 3, blockSize: 8, scaleBits: 2 } as const;
  const parts = quantizeNormalFloat(wave(24), ragged);
  expect(normalFloatStorage(ragged, 24)).toBe(8 * (parts.codes.length + parts.scaleCodes.length + 4) + 32);
});

test("errors fall with bits of values and of scales; zeros stay zeros; the largest number of a block nearly stays", () => {
  const weight = wave(1024).map((value, at) => (at < 16 ? 0 : value * (1 + Math.floor(at / 16))));
  const errorOf = (layout: NormalFloatLayout) => {
    const restored = dequantizeNormalFloat(quantizeNormalFloat(weight, layout), layout, 1024);
    expect([...restored.subarray(0, 16)].every((value) => value === 0)).toBe(true);
    return Math.hypot(...restored.map((value, at) => value - Number(weight[at])));
  };
  const base = { bits: 8, blockSize: 16, scaleBits: 8, superBlock: 16, scaleDtype: "float32" } as const;
  const byValue = BITS.map((bits) => errorOf({ ...base, bits }));
  const byScale = BITS.map((scaleBits) => errorOf({ ...base, scaleBits }));
  for (const errors of [byValue, byScale])
    for (let at = 1; at < errors.length; at++) expect(errors[at]).toBeLessThan(Number(errors[at - 1]));
});

test("blocks that are not full, and scales beyond half precision, are refused", () => {
  const layout = { bits: 3, blockSize: 16, scaleBits: 8, superBlock: 16, scaleDtype: "float16" } as const;
  expect(() => quantizeNormalFloat(wave(20), layout)).toThrow(/blocks of 16/);
  const large = wave(64).map((value, at) => (at < 32 ? value : 1e6 * value));
  expect(() => quantizeNormalFloat(large, layout)).toThrow(/do not fit float16/);
});
