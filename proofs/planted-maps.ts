import type { SiteShape } from "../src/methods/index.js";
import { rng } from "../src/runtime/index.js";

/** One linear map, and the one that training should turn it into; row-major `[out, in]`. */
export interface PlantedMap {
  readonly path: string;
  readonly out: number;
  readonly in: number;
  readonly weight: Float32Array;
  readonly target: Float32Array;
  readonly bias?: Float32Array;
  readonly targetBias?: Float32Array;
  /** Its inputs are the rows of `root` `[in, in]`: their covariance is rootᵀ·root. Default: the identity. */
  readonly root?: Float32Array;
  /** Statistics for starts that depend on data. */
  readonly statistics?: Readonly<Record<string, Float32Array>>;
}

/** Standard normal numbers of one stream. */
export const normals = (count: number, ...stream: readonly (string | number)[]): Float32Array =>
  rng(1, "planted", ...stream.map(String)).fillNormal(new Float32Array(count));

/** C[m,n] = A[m,k]·B[k,n], summed in float64. */
export function times(
  a: ArrayLike<number>,
  b: ArrayLike<number>,
  [m, k, n]: readonly [number, number, number],
): Float32Array {
  const out = new Float64Array(m * n);
  for (let i = 0; i < m; i++)
    for (let h = 0; h < k; h++) {
      const left = Number(a[i * k + h]);
      for (let j = 0; j < n; j++) out[i * n + j] = Number(out[i * n + j]) + left * Number(b[h * n + j]);
    }
  return Float32Array.from(out);
}

export const plus = (a: Float32Array, b: Float32Array, scale = 1): Float32Array =>
  a.map((value, at) => value + scale * Number(b[at]));

export const norm = (a: ArrayLike<number>): number => {
  let sum = 0;
  for (let at = 0; at < a.length; at++) sum += Number(a[at]) ** 2;
  return Math.sqrt(sum);
};

/** Largest absolute difference. */
export const gap = (a: ArrayLike<number>, b: ArrayLike<number>): number => {
  let most = a.length === b.length ? 0 : Number.POSITIVE_INFINITY;
  for (let at = 0; at < a.length; at++) most = Math.max(most, Math.abs(Number(a[at]) - Number(b[at])));
  return most;
};

export const shapeOf = (map: PlantedMap): SiteShape => ({
  path: map.path,
  kind: "linear",
  inFeatures: map.in,
  outFeatures: map.out,
  hasBias: map.bias !== undefined,
});

/** Inputs `[rows, in]` through the target. */
export function outputsOf(map: PlantedMap, inputs: Float32Array): Float32Array {
  const rows = inputs.length / map.in;
  const out = new Float32Array(rows * map.out);
  for (let row = 0; row < rows; row++)
    for (let i = 0; i < map.out; i++) {
      let sum = map.bias ? Number((map.targetBias ?? map.bias)[i]) : 0;
      for (let j = 0; j < map.in; j++)
        sum += Number(map.target[i * map.in + j]) * Number(inputs[row * map.in + j]);
      out[row * map.out + i] = sum;
    }
  return out;
}

/** A product of `[out, rank]` and `[rank, in]` normal factors, entries of variance `scale²`. */
export function lowRank(
  out: number,
  inn: number,
  rank: number,
  scale: number,
  ...stream: readonly (string | number)[]
): Float32Array {
  if (rank === 0) return new Float32Array(out * inn);
  const [b, a] = [normals(out * rank, ...stream, "b"), normals(rank * inn, ...stream, "a")];
  return times(b, a, [out, rank, inn]).map((value) => (value * scale) / Math.sqrt(rank));
}

/** A frozen map of entries of variance 1 / in, and a target that differs from it by `delta`. */
export function plant(
  path: string,
  [out, inn]: readonly [number, number],
  delta: Float32Array,
  ...stream: readonly (string | number)[]
): PlantedMap {
  const weight = normals(out * inn, "w0", path, ...stream).map((value) => value / Math.sqrt(inn));
  return { path, out, in: inn, weight, target: plus(weight, delta) };
}
