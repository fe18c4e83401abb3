import { TunesmithError } from "../../errors/index.js";
import { gemm, type Matrix, type Matrix64, zeros } from "../../runtime/linalg/index.js";

/**
 * One attention head with LoRA inside its scores, as arXiv 2406.03136 writes it: loss ½‖f·C3 − Y‖² with f the row-wise softmax of
 * C1·W·C2ᵀ and W = base + B·A. A scale of the update or of the scores belongs into C1.
 *
 * To adapt the query map: C1 the inputs, C2 the keys. The key map: C1 the queries, C2 the inputs, W its transpose.
 */
export interface AttentionHead {
  /** `[L, d]` */
  readonly c1: Matrix;
  /** `[L, d]` */
  readonly c2: Matrix;
  /** Values, `[L, m]`. */
  readonly c3: Matrix;
  /** `[L, m]` */
  readonly y: Matrix;
  /** The frozen part of W, `[d, d]`. */
  readonly base: Matrix;
  /** `[d, r]` */
  readonly b: Matrix;
  /** `[r, d]` */
  readonly a: Matrix;
}

export interface AttentionGradient {
  readonly loss: number;
  /** `[r, d]` */
  readonly da: Matrix64;
  /** `[d, r]` */
  readonly db: Matrix64;
  /** With respect to W, `[d, d]`. */
  readonly dw: Matrix64;
  /** With respect to the values C3 `[L, m]`; Xᵀ times it is the gradient of the value map. */
  readonly dc3: Matrix64;
}

/** Counts what a computation takes. */
export interface Meter {
  /** Multiplications of matrix and entrywise products. */
  products: number;
  /** Numbers in the largest matrix that was made. */
  largest: number;
}

/** Matrix work that is counted. */
function counted(meter: Meter | undefined) {
  const made = (m: Matrix64, products: number): Matrix64 => {
    if (meter) {
      meter.products += products;
      meter.largest = Math.max(meter.largest, m.data.length);
    }
    return m;
  };
  return {
    made,
    times: (x: Matrix, y: Matrix): Matrix64 => made(gemm(x, y), x.rows * x.cols * y.cols),
    timesTurned: (x: Matrix, y: Matrix): Matrix64 =>
      made(gemm(x, y, { transposeB: true }), x.rows * x.cols * y.rows),
    turnedTimes: (x: Matrix, y: Matrix): Matrix64 =>
      made(gemm(x, y, { transposeA: true }), x.rows * x.cols * y.cols),
  };
}

const added = (x: Matrix, y: Matrix, scale = 1): Matrix64 => ({
  rows: x.rows,
  cols: x.cols,
  data: Float64Array.from(x.data, (value, at) => value + scale * (y.data[at] as number)),
});

/** Each row times its factor. */
const scaledRows = (x: Matrix, factors: ArrayLike<number>): Matrix64 => ({
  rows: x.rows,
  cols: x.cols,
  data: Float64Array.from(x.data, (value, at) => value * (factors[Math.floor(at / x.cols)] as number)),
});

/** Sums of the rows of x ∘ y. */
function rowSums(x: Matrix, y: Matrix): Float64Array {
  const sums = new Float64Array(x.rows);
  for (const [at, value] of x.data.entries()) {
    const row = Math.floor(at / x.cols);
    sums[row] = (sums[row] as number) + value * (y.data[at] as number);
  }
  return sums;
}

const halfSquares = ({ data }: Matrix64): number => data.reduce((sum, value) => sum + value * value, 0) / 2;

function checkHead({ c1, c2, c3, y, base, a, b }: AttentionHead): void {
  const [length, d] = [c1.rows, c1.cols];
  const fits =
    c2.cols === d &&
    c3.rows === c2.rows &&
    y.rows === length &&
    y.cols === c3.cols &&
    base.rows === d &&
    base.cols === d &&
    b.rows === d &&
    a.cols === d &&
    a.rows === b.cols;
  if (fits) return;
  const shown = Object.entries({ c1, c2, c3, y, base, b, a }).map(
    ([name, m]) => `${name} ${m.rows}x${m.cols}`,
  );
  throw new TunesmithError(
    "shape-mismatch",
    `the parts of an attention head do not fit: ${shown.join(", ")}`,
    {
      fix: "c1 and c2 [L, d], c3 and y [L, m], base [d, d], b [d, r], a [r, d]",
    },
  );
}

/**
 * The gradient by the chain rule in matrix form, O(L²·d): the Jacobian of each softmax is a diagonal less a product of
 * two vectors. The reference for `fastLoraAttentionGrad`.
 *
 * @param meter Counts multiplications and the largest matrix.
 * @throws `shape-mismatch`
 * @example
 * ```ts
 * import { type AttentionHead, loraAttentionGrad } from "tunesmith/methods";
 * export const gradientOfA = (head: AttentionHead) => loraAttentionGrad(head).da;
 * ```
 */
export function loraAttentionGrad(head: AttentionHead, meter?: Meter): AttentionGradient {
  checkHead(head);
  const { made, times, timesTurned, turnedTimes } = counted(meter);
  const { c1, c2, c3, y, base, a, b } = head;
  const w = added(base, times(b, a));
  const f = softmaxRows(timesTurned(times(c1, w), c2));
  const out = times(f, c3);
  const c = added(out, y, -1);
  const p = timesTurned(c, c3);
  const s = rowSums(out, c);
  const q = made(
    {
      rows: f.rows,
      cols: f.cols,
      data: f.data.map(
        (value, at) => value * ((p.data[at] as number) - (s[Math.floor(at / f.cols)] as number)),
      ),
    },
    f.data.length,
  );
  const dw = times(turnedTimes(c1, q), c2);
  return {
    loss: halfSquares(c),
    dw,
    da: turnedTimes(b, dw),
    db: timesTurned(dw, a),
    dc3: turnedTimes(f, c),
  };
}

function softmaxRows(scores: Matrix64): Matrix64 {
  const { rows, cols, data } = scores;
  for (let row = 0; row < rows; row++) {
    const own = data.subarray(row * cols, (row + 1) * cols);
    const most = own.reduce((x, y) => Math.max(x, y), Number.NEGATIVE_INFINITY);
    let sum = 0;
    for (let at = 0; at < cols; at++) sum += own[at] = Math.exp((own[at] as number) - most);
    for (let at = 0; at < cols; at++) own[at] = (own[at] as number) / sum;
  }
  return scores;
}

export interface FastGradientOptions {
  /** Degree of the polynomial that stands for the exponential. Features grow as binomial(d + degree, degree). */
  readonly degree: number;
}

/** More features than this for a row are refused. */
const MOST_FEATURES = 20_000;

/**
 * The same gradient in time and memory linear in L (arXiv 2406.03136): the exponential of scores as a polynomial, so that the
 * softmax is a product of two thin matrices and no matrix of L x L is made. Everything but the polynomial is exact.
 *
 * It is near where entries of C1·W and C2 are small: below about √(ln L) (`loraEfficiency` measures them), for heads of up
 * to some eight features.
 *
 * @throws `config-invalid` for a degree below 1, or one that makes too many features; `numerical-failure` where the polynomial
 *   is not positive; `shape-mismatch`.
 * @example
 * ```ts
 * import { type AttentionHead, fastLoraAttentionGrad } from "tunesmith/methods";
 * export const gradientOfA = (head: AttentionHead) => fastLoraAttentionGrad({ degree: 6 })(head).da;
 * ```
 */
export function fastLoraAttentionGrad({ degree }: FastGradientOptions) {
  if (!Number.isInteger(degree) || degree < 1) {
    throw new TunesmithError("config-invalid", `the degree of a polynomial is ${degree}`, {
      fix: "give a whole number from 1 on",
    });
  }
  return (head: AttentionHead, meter?: Meter): AttentionGradient => {
    checkHead(head);
    checkFeatures(head.c1.cols, degree);
    const { made, times, timesTurned, turnedTimes } = counted(meter);
    const { c1, c2, c3, y, base, a, b } = head;
    const w = added(base, times(b, a));
    const u = made(monomials(times(c1, w), degree), c1.rows * featureCount(c1.cols, degree));
    const v = made(monomials(c2, degree), c2.rows * featureCount(c2.cols, degree));
    const u1 = normalised(u, v);
    // f ≈ U1·Vᵀ from here on.
    const out = times(u1, turnedTimes(v, c3));
    const c = added(out, y, -1);
    const dw = added(
      withValues({ c1, c2, c3, c, u1, v }, counted(meter)),
      times(turnedTimes(scaledRows(c1, rowSums(out, c)), u1), turnedTimes(v, c2)),
      -1,
    );
    return {
      loss: halfSquares(c),
      dw,
      da: turnedTimes(b, dw),
      db: timesTurned(dw, a),
      dc3: times(v, turnedTimes(u1, c)),
    };
  };
}

/** How many monomials of at most a degree there are: binomial(d + degree, degree). */
export function featureCount(d: number, degree: number): number {
  let count = 1;
  for (let k = 1; k <= degree; k++) count = (count * (d + k)) / k;
  return Math.round(count);
}

function checkFeatures(d: number, degree: number): void {
  const count = featureCount(d, degree);
  if (count <= MOST_FEATURES) return;
  throw new TunesmithError("config-invalid", `degree ${degree} over ${d} features makes ${count} monomials`, {
    fix: "choose a smaller degree; heads wider than some eight features are no use here",
    details: { count },
  });
}

/** Rows of all monomials up to a degree, each over √(n₁!·n₂!·…): ⟨φ(x), φ(y)⟩ = Σ_{m ≤ degree} ⟨x, y⟩^m / m!. */
function monomials(x: Matrix, degree: number): Matrix64 {
  const { rows, cols: d } = x;
  const terms = exponents(d, degree);
  const out = zeros(rows, terms.length);
  for (let row = 0; row < rows; row++)
    for (const [at, { before, variable, power }] of terms.entries()) {
      const from = before < 0 ? 1 : (out.data[row * terms.length + before] as number);
      const factor = before < 0 ? 1 : (x.data[row * d + variable] as number) / Math.sqrt(power);
      out.data[row * terms.length + at] = from * factor;
    }
  return out;
}

/** A monomial as an earlier one times a variable, which then has `power`. */
interface Term {
  readonly before: number;
  readonly variable: number;
  readonly power: number;
}

/** Monomials in the order of their degree; variables of each do not fall. */
function exponents(d: number, degree: number): Term[] {
  const terms: Term[] = [{ before: -1, variable: 0, power: 0 }];
  let [from, to] = [0, 1];
  for (let k = 1; k <= degree; k++) {
    for (let before = from; before < to; before++) {
      const last = terms[before] as Term;
      for (let variable = last.before < 0 ? 0 : last.variable; variable < d; variable++) {
        const power = last.before >= 0 && variable === last.variable ? last.power + 1 : 1;
        terms.push({ before, variable, power });
      }
    }
    [from, to] = [to, terms.length];
  }
  return terms;
}

/** U over its row sums with V: rows of U1·Vᵀ add up to 1. */
function normalised(u: Matrix64, v: Matrix64): Matrix64 {
  const total = new Float64Array(v.cols);
  for (const [at, value] of v.data.entries()) total[at % v.cols] = (total[at % v.cols] as number) + value;
  const sums = new Float64Array(u.rows);
  for (const [at, value] of u.data.entries()) {
    const row = Math.floor(at / u.cols);
    sums[row] = (sums[row] as number) + value * (total[at % u.cols] as number);
  }
  if (sums.every((sum) => sum > 0))
    return scaledRows(
      u,
      sums.map((sum) => 1 / sum),
    );
  throw new TunesmithError("numerical-failure", "the polynomial gives attention a sum that is not positive", {
    fix: "scores are too large for it: choose an even or a higher degree, or smaller norms",
  });
}

interface Thin {
  readonly c1: Matrix;
  readonly c2: Matrix;
  readonly c3: Matrix;
  readonly c: Matrix64;
  readonly u1: Matrix64;
  readonly v: Matrix64;
}

/** C1ᵀ·(f ∘ c·C3ᵀ)·C2, one column of c and C3 at a time: f ∘ c·C3ᵀ is the product of row-wise Kronecker products. */
function withValues(
  { c1, c2, c3, c, u1, v }: Thin,
  { turnedTimes, timesTurned, made }: ReturnType<typeof counted>,
): Matrix64 {
  let sum = zeros(c1.cols, c2.cols);
  for (let column = 0; column < c3.cols; column++) {
    const left = made(scaledRows(u1, columnOf(c, column)), u1.data.length);
    const right = made(scaledRows(v, columnOf(c3, column)), v.data.length);
    sum = added(sum, timesTurned(turnedTimes(c1, left), turnedTimes(c2, right)));
  }
  return sum;
}

const columnOf = ({ data, rows, cols }: Matrix, column: number): Float64Array =>
  Float64Array.from({ length: rows }, (_, row) => data[row * cols + column] as number);
