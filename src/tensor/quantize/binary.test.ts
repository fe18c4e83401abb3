import { expect, test } from "vitest";
import { dequantizeBinary, quantizeBinary } from "./index.js";

const wave = (count: number) => Float32Array.from({ length: count }, (_, at) => Math.sin(at * at + 0.3 * at));

test("one plane: signs and the mean magnitude; zero counts as plus", () => {
  const packed = quantizeBinary(Float32Array.of(1, -2, 0, 3), 1, 4, { planes: 1 });
  expect([...packed.scales]).toEqual([1.5]);
  expect([...dequantizeBinary(packed, 1, 4, 1)]).toEqual([1.5, -1.5, 1.5, 1.5]);
});

test("a row that is a sum of planes is found exactly, the largest scale first", () => {
  const row = Float32Array.of(3.5, 2.5, -2.5, -3.5, 3.5, -2.5, 2.5, -3.5, 3.5);
  const packed = quantizeBinary(row, 1, 9, { planes: 2 });
  expect([...packed.scales]).toEqual([3, 0.5]);
  expect(dequantizeBinary(packed, 1, 9, 2)).toEqual(row);
});

test("more planes, smaller errors; rows of zeros stay zeros", () => {
  const weight = wave(4 * 37);
  weight.fill(0, 0, 37);
  let last = Number.POSITIVE_INFINITY;
  for (const planes of [1, 2, 3, 4]) {
    const restored = dequantizeBinary(quantizeBinary(weight, 4, 37, { planes }), 4, 37, planes);
    expect([...restored.subarray(0, 37)].every((value) => Math.abs(value) === 0)).toBe(true);
    const error = restored.reduce((sum, value, at) => sum + (value - (weight[at] as number)) ** 2, 0);
    expect(error).toBeLessThan(last * 0.6);
    last = error;
  }
});
