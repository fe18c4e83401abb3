import { expect, test } from "vitest";
import { difference, randomMatrix } from "../../test/matrices.js";
import { gemm, randomizedSvd, toFloat32 } from "./linalg/index.js";
import { runtimeGemm } from "./runtime-gemm.js";

test("products in ONNX Runtime equal those in this thread", async () => {
  const multiply = runtimeGemm();
  const a = randomMatrix(37, 90);
  const b = randomMatrix(37, 20, 1);
  const expected = gemm(a, b, { transposeA: true });
  expect(difference(await multiply(a, b, { transposeA: true }), expected)).toBeLessThan(1e-12);
  expect(difference(await multiply(toFloat32(a), toFloat32(b), { transposeA: true }), expected)).toBeLessThan(
    1e-4,
  );
  const { s } = await randomizedSvd(a, { rank: 3, gemm: multiply });
  const own = await randomizedSvd(a, { rank: 3 });
  s.forEach((value, i) => {
    expect(value).toBeCloseTo(own.s[i] as number, 10);
  });
});
