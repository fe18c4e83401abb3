import { svd } from "../src/runtime/index.js";
import { matrixOf } from "./matrices.js";
import type { PlantedMap } from "./planted.js";
import { matrix, type Numbers } from "./structure.js";

export const [OUT, IN] = [24, 32];
export const SIZE = [OUT, IN] as const;

export const numbers = (all: Numbers, key: string): ArrayLike<number> => {
  const found = all[key];
  if (!found) throw new Error(`no tensor ${key}`);
  return found;
};

/** Columns of `a` `[rows, k]` times one number each. */
export const scaled = (a: ArrayLike<number>, d: ArrayLike<number>): Float32Array =>
  Float32Array.from(a, (value, at) => value * Number(d[at % d.length]));

/** W of its singular triplets from one to another. */
export function part(
  { weight, out, in: inn }: PlantedMap,
  from: number,
  to = Math.min(out, inn),
): Float32Array {
  const { u, s, vt } = svd(matrixOf(out, inn, weight));
  return matrix(out, inn, (i, j) => {
    let sum = 0;
    for (let k = from; k < to; k++)
      sum += Number(u.data[i * u.cols + k]) * Number(s[k]) * Number(vt.data[k * inn + j]);
    return sum;
  });
}

export const exact = { expected: 0, tolerance: 1e-4 } as const;
