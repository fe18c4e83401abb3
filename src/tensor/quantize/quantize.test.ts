import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import {
  dequantizeInt4,
  dequantizeInt8,
  dequantizeMaxima,
  dequantizeNf4,
  dynamicMap,
  NF4,
  quantizeInt4,
  quantizeInt8,
  quantizeMaxima,
  quantizeNf4,
} from "./index.js";

// Made by scripts/reference/make_quantize_fixture.py with bitsandbytes and ONNX Runtime's own quantisers.
const fixture = JSON.parse(
  readFileSync(new URL("../../../fixtures/quantize/codecs.json", import.meta.url), "utf8"),
);
const floats = (list: number[]) => Float32Array.from(list);

test("NF4 codes, scales and numbers are those of bitsandbytes", () => {
  const { weight, book, codes, maxima, restored } = fixture.nf4;
  expect(floats([...NF4])).toEqual(floats(book));
  const packed = quantizeNf4(floats(weight));
  expect(packed.maxima).toEqual(floats(maxima));
  expect([...packed.codes]).toEqual(codes);
  expect(dequantizeNf4(packed)).toEqual(floats(restored));
});

test("scales quantised a second time are those of bitsandbytes", () => {
  const { maxima, codes, scales, offset, restored, map } = fixture.double;
  for (const [at, value] of dynamicMap(true).entries()) expect(Math.abs(value - map[at])).toBeLessThan(1e-7);
  const packed = quantizeMaxima(floats(maxima));
  expect(packed.offset).toBeCloseTo(offset, 6);
  for (const [at, value] of packed.scales.entries()) expect(value).toBeCloseTo(scales[at], 6);
  // The mean is summed in another order there, so a number between two codes may fall to either.
  const different = packed.codes.reduce((sum, code, at) => sum + Math.abs(code - codes[at]), 0);
  expect(different).toBeLessThanOrEqual(2);
  const worst = dequantizeMaxima(packed).reduce(
    (most, value, at) => Math.max(most, Math.abs(value - restored[at])),
    0,
  );
  expect(worst).toBeLessThan(0.02 * Math.max(...scales));
});

test.each<[string, number]>([
  ["symmetric", 0],
  ["with zero points", 1],
  ["zero points that do not fill their bytes", 2],
  ["symmetric, a partial last block", 3],
])("4 bits, %s: bytes of ONNX Runtime's quantiser", (_, at) => {
  const { weight, codes, scales, zeros, ...layout } = fixture.int4[at];
  const packed = quantizeInt4(floats(weight), layout);
  expect(packed.scales).toEqual(floats(scales));
  expect([...packed.codes]).toEqual(codes);
  expect(packed.zeros && [...packed.zeros]).toEqual(layout.symmetric ? undefined : zeros);
  const restored = dequantizeInt4(packed, layout);
  restored.forEach((value, i) => {
    const step = Math.abs(
      packed.scales[
        Math.floor(i / layout.columns) * Math.ceil(layout.columns / layout.blockSize) +
          Math.floor((i % layout.columns) / layout.blockSize)
      ] as number,
    );
    expect(Math.abs(value - weight[i])).toBeLessThanOrEqual(1.01 * step);
  });
});

test("8 bits: within half a step of its row, zeros stay zeros", () => {
  const weight = Float32Array.from({ length: 6 * 50 }, (_, at) => (at < 50 ? 0 : Math.sin(at * at) * at));
  const packed = quantizeInt8(weight, 6, 50);
  const restored = dequantizeInt8(packed, 6, 50);
  restored.forEach((value, at) => {
    const step = packed.scales[Math.floor(at / 50)] as number;
    expect(Math.abs(value - (weight[at] as number))).toBeLessThanOrEqual(0.5001 * step);
  });
  expect([...restored.subarray(0, 50)]).toEqual(Array(50).fill(0));
  expect(Math.max(...packed.codes)).toBe(127);
});
