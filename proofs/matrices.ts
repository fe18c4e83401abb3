import type { HookSite } from "../src/methods/index.js";
import {
  frobeniusNorm,
  lu,
  type Matrix64,
  numericalRank,
  orthogonalColumns,
  rng,
  svd,
} from "../src/runtime/index.js";
import type { Points } from "./network.js";
import { gap, type PlantedMap, type PlantedSites, times } from "./planted.js";
import type { Check } from "./proof.js";

export const identity = (n: number): Float32Array =>
  Float32Array.from({ length: n * n }, (_, at) => (at % (n + 1) === 0 ? 1 : 0));

export const matrixOf = (rows: number, cols: number, data: ArrayLike<number>): Matrix64 => ({
  rows,
  cols,
  data: Float64Array.from(data),
});

/** `[cols, rows]` of a row-major `[rows, cols]`. */
export const turned = (rows: number, cols: number, data: ArrayLike<number>): Float32Array =>
  Float32Array.from({ length: rows * cols }, (_, at) =>
    Number(data[(at % rows) * cols + Math.floor(at / rows)]),
  );

/** The identity as a map, so that what a method makes of it is its own matrix. */
export const identityMap = (n: number, target = identity(n)): PlantedMap => ({
  path: "map",
  out: n,
  in: n,
  weight: identity(n),
  target,
});

/** Largest entry of MᵀM − I. */
export const orthogonalGap = (n: number, m: ArrayLike<number>): number =>
  gap(times(turned(n, n, m), m, [n, n, n]), identity(n));

/** Product of the pivots, with the sign of their order. */
export function determinant(n: number, data: ArrayLike<number>): number {
  const { u, permutation } = lu(matrixOf(n, n, data));
  const order = [...permutation];
  let product = 1;
  for (let at = 0; at < n; at++) {
    product *= Number(u.data[at * n + at]);
    for (let other = Number(order[at]); other !== at; other = Number(order[at])) {
      order[at] = Number(order[other]);
      order[other] = other;
      product = -product;
    }
  }
  return product;
}

/** A random rotation `[d, d]`, uniform, of determinant 1. */
export function rotation(d: number, seed: number): Float32Array {
  const draw = (index: number, count: number) =>
    rng(seed, "rotation", index).fillNormal(new Float64Array(count));
  const { data } = orthogonalColumns(d, [...Array(d).keys()], draw);
  if (determinant(d, data) < 0) for (let at = 0; at < d; at++) data[at] = -Number(data[at]);
  return Float32Array.from(data);
}

/** Largest change of a singular value, relative to the largest of them. */
export function spectrumChange(
  rows: number,
  cols: number,
  before: Float32Array,
  after: Float32Array,
): number {
  const [a, b] = [svd(matrixOf(rows, cols, before)).s, svd(matrixOf(rows, cols, after)).s];
  return gap(a, b) / Number(a[0]);
}

/** Rank of `after` − `before` in single precision. */
export const rankOfChange = (rows: number, cols: number, before: Float32Array, after: Float32Array): number =>
  numericalRank(
    matrixOf(
      rows,
      cols,
      after.map((value, at) => value - Number(before[at])),
    ),
    1e-5,
  );

/** What is left of a matrix after its best approximation of a rank, squared. */
export function tailOf(rows: number, cols: number, data: ArrayLike<number>, rank: number): number {
  return svd(matrixOf(rows, cols, data))
    .s.slice(rank)
    .reduce((sum, value) => sum + value * value, 0);
}

export const squareOf = (data: ArrayLike<number>): number =>
  frobeniusNorm(matrixOf(1, data.length, data)) ** 2;

/** Noise on everything trained at the maps. */
export function shake({ sites, shared }: PlantedSites, std: number, seed = 1): void {
  const all = [...sites.flatMap(({ tensors }) => Object.values(tensors)), ...Object.values(shared)];
  for (const { name, tensor, trainable } of all) {
    if (!trainable) continue;
    const data = tensor.data as Float32Array;
    const noise = rng(seed, "shake", name).fillNormal(new Float32Array(data.length), 0, std);
    for (let at = 0; at < data.length; at++) data[at] = Number(data[at]) + Number(noise[at]);
  }
}

/** The live numbers of a site's tensor. */
export function liveOf({ sites }: PlantedSites, key: string): Float32Array {
  const found = (sites[0] as HookSite).tensors[key];
  if (!found) throw new Error(`no tensor ${key}`);
  return found.tensor.data as Float32Array;
}

/** Trained numbers at the maps. */
export const trainedCount = ({ sites, shared }: PlantedSites): number =>
  [...sites.flatMap(({ tensors }) => Object.values(tensors)), ...Object.values(shared)]
    .filter(({ trainable }) => trainable)
    .reduce((sum, { tensor }) => sum + tensor.data.length, 0);

/** Points x as rows times a matrix `[width, width]`. */
export const transformed = ({ x, width, labels }: Points, by: ArrayLike<number>): Points => ({
  width,
  labels,
  x: times(x, by, [labels.length, width, width]),
});

export const isTrue = (what: string, holds: boolean): Check => ({
  what: `${what}, 1 if so`,
  measured: holds ? 1 : 0,
  expected: 1,
  tolerance: 0,
});

/** A number that must vanish. */
export const vanishes = (what: string, measured: number, tolerance: number): Check => ({
  what,
  measured,
  expected: 0,
  tolerance,
});
