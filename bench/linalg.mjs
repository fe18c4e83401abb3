// Times of the dense linear algebra, one JSON object on the last line. Run `npm run build` first.
// Usage: node bench/linalg.mjs [--repeat N]   (medians of N runs, default 3)
import { cpus } from "node:os";
import { parseArgs } from "node:util";
import {
  fft2,
  gemm,
  inverse,
  mt19937,
  pseudoInverse,
  qr,
  randomizedSvd,
  rng,
  runtimeGemm,
  svd,
  symmetricEigen,
  toFloat32,
  transpose,
} from "../dist/runtime/index.js";

const { values } = parseArgs({ options: { repeat: { type: "string", default: "3" } } });
const repeat = Number(values.repeat);

const random = (rows, cols) => ({
  rows,
  cols,
  data: rng(0, rows, cols).fillNormal(new Float64Array(rows * cols)),
});

const results = {};
async function time(name, run) {
  await run();
  const times = [];
  for (let i = 0; i < repeat; i++) {
    const start = performance.now();
    await run();
    times.push(performance.now() - start);
  }
  results[name] = times.sort((a, b) => a - b)[repeat >> 1];
  console.log(`${name.padEnd(44)} ${results[name].toFixed(1).padStart(9)} ms`);
}

const square = random(768, 768);
const single = toFloat32(square);
const sum = { ...square, data: transpose(square).data.map((value, i) => value + square.data[i]) };
const tall = random(3072, 768);
const large = toFloat32(random(4096, 4096));
const skinny = toFloat32(random(4096, 74));
const multiply = runtimeGemm();

console.log(`Node ${process.version}, ${cpus().length} x ${cpus()[0]?.model}`);
await time("svd 768x768", () => svd(square));
await time("svd 3072x768", () => svd(tall));
await time("randomizedSvd rank 64, 4096x4096, in thread", () => randomizedSvd(large, { rank: 64 }));
await time("randomizedSvd rank 64, 4096x4096, runtime", () =>
  randomizedSvd(large, { rank: 64, gemm: multiply }),
);
await time("gemm 768x768x768, in thread", () => gemm(square, square));
await time("gemm 768x768x768, runtime float64", () => multiply(square, square, {}));
await time("gemm 768x768x768, runtime float32", () => multiply(single, single, {}));
await time("gemm 4096x4096x74, in thread", () => gemm(large, skinny));
await time("gemm 4096x4096x74, runtime float32", () => multiply(large, skinny, {}));
await time("gemm 4096x4096'x74, runtime float32", () => multiply(large, skinny, { transposeA: true }));
await time("qr 768x768", () => qr(square));
await time("symmetricEigen 768x768", () => symmetricEigen(sum));
await time("inverse 768x768", () => inverse(square));
await time("pseudoInverse 768x768", () => pseudoInverse(square));
await time("fft2 768x768", () => fft2(768, 768, square.data));
await time("rng.fillNormal, 1e6", () => rng(0).fillNormal(new Float32Array(1e6)));
await time("rng.fillDropout, 1e6", () => rng(0).fillDropout(new Float32Array(1e6), 0.1));
await time("mt19937.randperm, 768^2", () => mt19937(777).randperm(768 * 768));
console.log(JSON.stringify({ node: process.version, milliseconds: results }));
process.exit(0);
