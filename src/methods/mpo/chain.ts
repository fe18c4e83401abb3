import { TunesmithError } from "../../errors/index.js";
import {
  gemm,
  type Matrix,
  type Matrix64,
  qr,
  scaleColumns,
  svd,
  transpose,
} from "../../runtime/linalg/index.js";

/** Sizes of a chain of tensors that stands for a matrix `[out, in]`; tensor k is `[dₖ₋₁, iₖ, jₖ, dₖ]`. */
export interface MpoShape {
  /** i₁, ..., iₙ, whose product is `out`. */
  readonly outFactors: readonly number[];
  /** j₁, ..., jₙ, whose product is `in`. */
  readonly inFactors: readonly number[];
  /** d₀ = 1, d₁, ..., dₙ = 1. */
  readonly bonds: readonly number[];
}

/** A matrix product operator: the chain itself. */
export interface Mpo {
  readonly shape: MpoShape;
  /** Tensor k, `[dₖ₋₁, iₖ, jₖ, dₖ]` row-major. */
  readonly cores: readonly Float64Array[];
}

/**
 * Where the size of the matrix lies. `central`: in the middle tensor, those before it with orthonormal columns, those
 * after it with orthonormal rows; `left`: in the last; `spread`: evenly, a root of each bond's singular values on either side.
 */
export type MpoGauge = "central" | "left" | "spread";

export interface MpoOptions {
  /** Number n of tensors, odd. Default 5. */
  readonly cores?: number;
  /** Factors by the size they multiply to: `{ 768: [4, 4, 4, 4, 3] }`. Default: as `mpoFactors`. */
  readonly factors?: Readonly<Record<string, readonly number[]>>;
  /** Most that a bond may have. Default: as many as it takes to be exact. */
  readonly truncate?: number | undefined;
  /** Default `central`. */
  readonly gauge?: MpoGauge;
}

/** Position of the central tensor, from 0. */
export const centreOf = ({ outFactors }: MpoShape): number => (outFactors.length - 1) / 2;

const product = (sizes: readonly number[]): number => sizes.reduce((a, b) => a * b, 1);

function primes(size: number): number[] {
  const found: number[] = [];
  let rest = size;
  for (let prime = 2; prime * prime <= rest; prime++)
    for (; rest % prime === 0; rest /= prime) found.push(prime);
  return rest > 1 ? [...found, rest] : found;
}

/**
 * `size` as a product of `cores` factors that are as even as its primes allow, large ones in the middle: 768 = 4·4·4·4·3,
 * 3072 = 4·4·8·6·4.
 *
 * @example
 * ```ts
 * import { mpoFactors } from "tunesmith/methods";
 * console.log(mpoFactors(4096, 5)); // [4, 4, 8, 8, 4]
 * ```
 */
export function mpoFactors(size: number, cores: number): number[] {
  const even = new Array<number>(cores).fill(1);
  for (const prime of primes(size).reverse()) {
    const least = even.indexOf(Math.min(...even));
    even[least] = (even[least] as number) * prime;
  }
  const centre = (cores - 1) / 2;
  const inner = Array.from({ length: Math.max(0, centre - 1) }, (_, at) => [
    centre + at + 1,
    centre - at - 1,
  ]);
  const places = [centre, ...inner.flat(), 0, cores - 1];
  const factors = new Array<number>(cores).fill(1);
  even
    .sort((a, b) => b - a)
    .forEach((factor, at) => {
      factors[places[at] as number] = factor;
    });
  return factors;
}

/**
 * The sizes of a chain for matrices `[out, in]`: dₖ is the smaller of the products of iₘ·jₘ before and after bond k, or
 * `truncate` if that is less. Throws `config-invalid` for an even or too small number of tensors, and for factors of another size.
 */
export function mpoShape(out: number, inn: number, options: MpoOptions = {}): MpoShape {
  const { cores = 5, truncate = Number.POSITIVE_INFINITY } = options;
  if (cores < 3 || cores % 2 === 0) {
    throw new TunesmithError("config-invalid", `cores: a chain of ${cores} tensors has no middle`, {
      fix: "use an odd number, 3 or more",
    });
  }
  const outFactors = factorsOf(out, cores, options);
  const inFactors = factorsOf(inn, cores, options);
  const sizes = outFactors.map((factor, at) => factor * (inFactors[at] as number));
  const bonds = Array.from({ length: cores + 1 }, (_, at) =>
    Math.min(product(sizes.slice(0, at)), product(sizes.slice(at)), truncate),
  );
  return { outFactors, inFactors, bonds };
}

function factorsOf(size: number, cores: number, { factors = {} }: MpoOptions): readonly number[] {
  const given = factors[size];
  if (!given) return mpoFactors(size, cores);
  if (given.length === cores && product(given) === size) return given;
  throw new TunesmithError(
    "config-invalid",
    `factors: ${given.join(" · ")} are not ${cores} factors of ${size}`,
    {
      fix: `give ${cores} whole numbers whose product is ${size}, or leave that size out`,
    },
  );
}

/** `[dₖ₋₁, iₖ, jₖ, dₖ]` of tensor k, from 0. */
export const coreShape = ({ outFactors, inFactors, bonds }: MpoShape, at: number): number[] =>
  [bonds[at], outFactors[at], inFactors[at], bonds[at + 1]] as number[];

/** Numbers of the central tensor and of the others, which are called auxiliary. */
export function mpoCounts(shape: MpoShape): { readonly central: number; readonly auxiliary: number } {
  const counts = shape.outFactors.map((_, at) => product(coreShape(shape, at)));
  const central = counts[centreOf(shape)] as number;
  return { central, auxiliary: counts.reduce((a, b) => a + b, 0) - central };
}

/** Where row `r` and column `c` of the matrix go in the order i₁ j₁ i₂ j₂ ...: the sum of two offsets. */
function offsets({ outFactors, inFactors }: MpoShape): { rows: Int32Array; columns: Int32Array } {
  const strides = outFactors.map((_, at) =>
    product([...outFactors.slice(at + 1), ...inFactors.slice(at + 1)]),
  );
  const along = (factors: readonly number[], unit: (at: number) => number) =>
    Int32Array.from({ length: product(factors) }, (_, index) => {
      let [rest, offset] = [index, 0];
      for (let at = factors.length - 1; at >= 0; at--) {
        const factor = factors[at] as number;
        offset += (rest % factor) * unit(at);
        rest = Math.floor(rest / factor);
      }
      return offset;
    });
  const stride = (at: number) => strides[at] as number;
  return {
    rows: along(outFactors, (at) => stride(at) * (inFactors[at] as number)),
    columns: along(inFactors, stride),
  };
}

/** A matrix `[out, in]` as the tensor `[i₁, j₁, i₂, j₂, ...]`. */
export function interleave({ data, cols }: Matrix, shape: MpoShape): Float64Array {
  const { rows, columns } = offsets(shape);
  const out = new Float64Array(data.length);
  rows.forEach((row, r) => {
    columns.forEach((column, c) => {
      out[row + column] = data[r * cols + c] as number;
    });
  });
  return out;
}

/** The way back. */
export function deinterleave(data: Float64Array, shape: MpoShape): Matrix64 {
  const { rows, columns } = offsets(shape);
  const cols = columns.length;
  const out = new Float64Array(data.length);
  rows.forEach((row, r) => {
    columns.forEach((column, c) => {
      out[r * cols + c] = data[row + column] as number;
    });
  });
  return { rows: rows.length, cols, data: out };
}

const folded = (data: Float64Array, rows: number): Matrix64 => ({ rows, cols: data.length / rows, data });

/** The first `count` columns. */
const firstColumns = ({ rows, cols, data }: Matrix64, count: number): Float64Array =>
  Float64Array.from(
    { length: rows * count },
    (_, at) => data[Math.floor(at / count) * cols + (at % count)] as number,
  );

interface Halves {
  readonly left: Float64Array;
  readonly right: Float64Array;
  /** All singular values. */
  readonly s: Float64Array;
}

/** M ≈ left·right with an inner size of `bond`; the singular values go to the side named. */
function halves(m: Matrix64, bond: number, sizes: "left" | "right"): Halves {
  const { u, s, vt } = svd(m);
  const right = folded(vt.data.slice(0, bond * vt.cols), bond);
  const left = folded(firstColumns(u, bond), u.rows);
  const kept = s.subarray(0, bond);
  if (sizes === "left") return { left: scaleColumns(left, kept).data, right: right.data, s };
  return { left: left.data, right: scaleRows(right, kept).data, s };
}

const scaleRows = (m: Matrix64, factors: Float64Array): Matrix64 =>
  transpose(scaleColumns(transpose(m), factors));

const squaresAfter = (s: Float64Array, kept: number): number =>
  s.subarray(kept).reduce((sum, value) => sum + value * value, 0);

/**
 * A matrix `[out, in]` as a chain of small tensors, by singular value decompositions from both ends towards the middle
 * (tensor trains, as in arXiv 2303.16753): exact without `truncate`. `discarded` is the sum of the squared singular values that were
 * dropped, which is the squared error.
 *
 * Throws `config-invalid` as `mpoShape`, `numerical-failure` for entries that are not finite.
 *
 * @example
 * ```ts
 * import { mpoContract, mpoDecompose } from "tunesmith/methods";
 * const weight = { rows: 64, cols: 64, data: Float32Array.from({ length: 4096 }, (_, at) => Math.sin(at)) };
 * const chain = mpoDecompose(weight, { cores: 3 });
 * console.log(chain.shape.bonds, chain.cores.map(({ length }) => length)); // [1, 16, 16, 1], [256, 4096, 256]
 * console.log(mpoContract(chain).data[5], weight.data[5]);
 * ```
 */
export function mpoDecompose(weight: Matrix, options: MpoOptions = {}): Mpo & { readonly discarded: number } {
  const shape = mpoShape(weight.rows, weight.cols, options);
  const centre = centreOf(shape);
  const cores: Float64Array[] = [];
  let rest = interleave(weight, shape);
  let discarded = 0;
  for (let at = 0; at < centre; at++) {
    const [before, i, j, bond] = coreShape(shape, at) as [number, number, number, number];
    const { left, right, s } = halves(folded(rest, before * i * j), bond, "right");
    cores[at] = left;
    rest = right;
    discarded += squaresAfter(s, bond);
  }
  for (let at = shape.outFactors.length - 1; at > centre; at--) {
    const [bond, i, j, after] = coreShape(shape, at) as [number, number, number, number];
    const { left, right, s } = halves(folded(rest, rest.length / (i * j * after)), bond, "left");
    cores[at] = right;
    rest = left;
    discarded += squaresAfter(s, bond);
  }
  cores[centre] = rest;
  const chain = { shape, cores };
  const { gauge = "central" } = options;
  return { ...(gauge === "central" ? chain : mpoRegauge(chain, gauge)), discarded };
}

/** The product of tensors `from` to `to` (excluded), `[d, ..., d']` in the order of their axes. */
export function contractRun({ shape, cores }: Mpo, from: number, to: number): Float64Array {
  let whole = cores[from] as Float64Array;
  for (let at = from + 1; at < to; at++) {
    const bond = shape.bonds[at] as number;
    whole = gemm(folded(whole, whole.length / bond), folded(cores[at] as Float64Array, bond)).data;
  }
  return whole;
}

/** The matrix `[out, in]` that a chain stands for. */
export const mpoContract = (chain: Mpo): Matrix64 =>
  deinterleave(contractRun(chain, 0, chain.cores.length), chain.shape);

/** Singular values of a bond below this share of its largest count as that share: their roots are divided by. */
const SMALLEST = 1e-12;

/** The same matrix with the sizes elsewhere; see `MpoGauge`. Bonds stay as they are. */
export function mpoRegauge({ shape, cores: given }: Mpo, gauge: MpoGauge): Mpo {
  const cores = [...given];
  const last = cores.length - 1;
  const centre = gauge === "central" ? centreOf(shape) : last;
  for (let at = 0; at < centre; at++) {
    const { q, r } = qr(folded(cores[at] as Float64Array, product(coreShape(shape, at).slice(0, 3))));
    cores[at] = q.data;
    cores[at + 1] = gemm(r, folded(cores[at + 1] as Float64Array, shape.bonds[at + 1] as number)).data;
  }
  if (gauge === "left") return { shape, cores };
  const roots: Float64Array[] = [];
  const stop = gauge === "central" ? centre : 0;
  for (let at = last; at > stop; at--) {
    const bond = shape.bonds[at] as number;
    const { left, right, s } = halves(folded(cores[at] as Float64Array, bond), bond, "left");
    cores[at] = right;
    const before = cores[at - 1] as Float64Array;
    cores[at - 1] = gemm(folded(before, before.length / bond), folded(left, bond)).data;
    roots[at] = s.map((value) => Math.sqrt(Math.max(value, SMALLEST * (s[0] as number)) || 1));
  }
  return {
    shape,
    cores: gauge === "spread" ? cores.map((core, at) => rooted(core, roots[at], roots[at + 1])) : cores,
  };
}

/** A tensor times the roots of the bond before it, over those of the bond after it. */
function rooted(core: Float64Array, before: Float64Array | undefined, after: Float64Array | undefined) {
  const widened = after
    ? scaleColumns(
        folded(core, core.length / after.length),
        after.map((g) => 1 / g),
      ).data
    : core;
  if (!before) return widened;
  return scaleRows(folded(widened, before.length), before).data;
}

/** A matrix `[Π iₖ·jₖ, d]` or `[d, Π iₖ·jₖ]` of one side of the middle as that side's tensors. */
export function splitSide(side: Float64Array, shape: MpoShape, which: "left" | "right"): Float64Array[] {
  const centre = centreOf(shape);
  const cores: Float64Array[] = [];
  let rest = side;
  if (which === "left") {
    for (let at = 0; at < centre - 1; at++) {
      const [before, i, j, bond] = coreShape(shape, at) as [number, number, number, number];
      const { left, right } = halves(folded(rest, before * i * j), bond, "right");
      cores.push(left);
      rest = right;
    }
    return [...cores, rest];
  }
  for (let at = shape.outFactors.length - 1; at > centre + 1; at--) {
    const [bond, i, j, after] = coreShape(shape, at) as [number, number, number, number];
    const { left, right } = halves(folded(rest, rest.length / (i * j * after)), bond, "left");
    cores.unshift(right);
    rest = left;
  }
  return [rest, ...cores];
}
