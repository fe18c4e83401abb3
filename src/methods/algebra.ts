import { constant, ops, type Value } from "../graph/index.js";
import { tensor } from "../tensor/index.js";

/** I `[n, n]`. */
export function identityMatrix(n: number): Value {
  const data = Float32Array.from({ length: n * n }, (_, at) => (at % (n + 1) === 0 ? 1 : 0));
  return constant(tensor("float32", [n, n], data));
}

/** (M − Mᵀ) / 2 of the last two axes. */
export const skewPart = (m: Value): Value => ops.mul(ops.sub(m, ops.transposeLast(m)), 0.5);

/** Newton's iteration doubles the correct digits; from its safe start it needs about log2(n + ‖A‖²) steps more. */
const NEWTON_STEPS = 20;

/**
 * Inverses of square matrices `[..., n, n]` whose singular values lie between 1 and about 300, as those of I + Q with Q
 * skew: ONNX has no inverse, so by Newton's iteration from Aᵀ / ‖A‖². Its derivative is exact: −A⁻ᵀ·dy·A⁻ᵀ.
 */
export function inverse(a: Value): Value {
  const rank = a.shape.length;
  const size = ops.reduceSum(ops.square(a), [rank - 2, rank - 1]);
  return newtonInverse(a, ops.div(ops.transposeLast(a), size), NEWTON_STEPS);
}

function newtonInverse(a: Value, start: Value, steps: number): Value {
  const twice = ops.mul(identityMatrix(a.shape.at(-1) as number), 2);
  let x = start;
  for (let step = 0; step < steps; step++) x = ops.matmul(x, ops.sub(twice, ops.matmul(a, x)));
  return ops.customVjp(x, [a], [x], ({ saved: [found] }, dy) => {
    const turned = ops.transposeLast(found as Value);
    return [ops.neg(ops.matmul(ops.matmul(turned, dy), turned))];
  });
}

/**
 * (I + Q)⁻¹ of skew Q `[..., n, n]`, n ≤ 4: there Q⁴ + s·Q² + p² = 0 with s = ‖Q‖² / 2 and the Pfaffian p, from which
 * (I + Q)⁻¹ = (I − Q)·((1 + s)·I + Q²) / (1 + s + p²). One of Newton's steps takes away the rounding of large Q.
 */
function smallInverse(q: Value): Value {
  const [rank, n] = [q.shape.length, q.shape.at(-1) as number];
  const one = identityMatrix(n);
  const s = ops.add(ops.mul(ops.reduceSum(ops.square(q), [rank - 2, rank - 1]), 0.5), 1);
  const start = ops.matmul(ops.sub(one, q), ops.add(ops.mul(one, s), ops.matmul(q, q)));
  const size = n === 4 ? ops.add(s, ops.square(pfaffian(q))) : s;
  return newtonInverse(ops.add(one, q), ops.div(start, size), 1);
}

/** q₀₁q₂₃ − q₀₂q₁₃ + q₀₃q₁₂ of skew `[..., 4, 4]`, `[..., 1, 1]`. */
function pfaffian(q: Value): Value {
  const flat = ops.reshape(q, [...q.shape.slice(0, -2), 16]);
  const at = (...places: number[]) => ops.gather(flat, ops.ints(places), flat.shape.length - 1);
  // −q₁₃ is q₃₁.
  const sum = ops.reduceSum(ops.mul(at(1, 2, 3), at(11, 13, 6)), [flat.shape.length - 1]);
  return ops.unsqueeze(sum, -1);
}

/** Cayley's orthogonal matrices (I − Q)(I + Q)⁻¹ of skew Q `[..., n, n]`; I for Q = 0. */
export function cayley(q: Value): Value {
  const n = q.shape.at(-1) as number;
  const one = identityMatrix(n);
  return ops.matmul(ops.sub(one, q), n <= 4 ? smallInverse(q) : inverse(ops.add(one, q)));
}

/**
 * The same by a series of `terms` powers: I + 2·Σ (−Q)ᵏ + (−Q)^(terms−1), for ‖Q‖ < 1 (arXiv 2506.19847); `sign` −1 gives the
 * inverse rotation, which is what PEFT computes.
 */
export function cayleySeries(q: Value, terms: number, sign: 1 | -1 = 1): Value {
  const step = sign === 1 ? ops.neg(q) : q;
  let power = step;
  let sum = ops.add(identityMatrix(q.shape.at(-1) as number), ops.mul(step, 2));
  for (let k = 2; k < terms; k++) {
    power = ops.matmul(power, step);
    sum = ops.add(sum, k === terms - 1 ? power : ops.mul(power, 2));
  }
  return sum;
}

/** The block-diagonal product R·x over the last axis: `x` `[..., d]` with blocks `[d / b, b, b]` gives xRᵀ per block. */
export function blockRotate(x: Value, blocks: Value): Value {
  const wide = wider(blocks);
  const [count, size] = wide.shape as [number, number, number];
  const rows = ops.transpose(ops.reshape(x, [-1, count, size], [x]), [1, 0, 2]);
  const turned = ops.matmul(rows, ops.transposeLast(wide));
  return ops.reshape(ops.transpose(turned, [1, 0, 2]), [-1, count * size], [x]);
}

/** A product with one matrix of this width takes less time than with the several small ones on its diagonal. */
const BLOCK_WIDTH = 32;

/** Neighbours of the blocks `[d / b, b, b]` on the diagonal of larger ones. */
function wider(blocks: Value): Value {
  const [count, size] = blocks.shape as [number, number, number];
  let joined = Math.max(1, Math.floor(BLOCK_WIDTH / size));
  while (count % joined !== 0) joined--;
  if (joined === 1) return blocks;
  const own = ops.reshape(blocks, [count / joined, joined, size, 1, size]);
  const spread = ops.mul(own, ops.reshape(identityMatrix(joined), [1, joined, 1, joined, 1]));
  return ops.reshape(spread, [count / joined, joined * size, joined * size]);
}

/** Columns of `x` `[..., d]` in another order. */
export const permute = (x: Value, order: readonly number[]): Value =>
  ops.gather(x, ops.ints(order), x.shape.length - 1);

/** `matrix` with `values` added at flat `places` (int64, `[n]`), which may repeat. */
export function addAt(matrix: Value, places: Value, values: Value): Value {
  const size = (matrix.shape as number[]).reduce((a, b) => a * b, 1);
  const flat = ops.scatterNd(ops.reshape(matrix, [size]), ops.unsqueeze(places, 1), values, "add");
  return ops.reshape(flat, matrix.shape);
}

/** Matrices `[d, b, b]` with `floor(share · d)` of them replaced by the identity: those of the largest `draws` `[d]`. */
export function someIdentity(blocks: Value, share: number, draws: Value): Value {
  const [count, size] = blocks.shape as [number, number, number];
  const replaced = Math.floor(share * count);
  if (replaced === 0) return blocks;
  const least = ops.slice(ops.topK(draws, replaced).values, 0, replaced - 1, replaced);
  const chosen = ops.unsqueeze(ops.greaterOrEqual(draws, least), 1, 2);
  return ops.where(chosen, identityMatrix(size), blocks);
}

/**
 * Q `[m, r]` of the thin QR decomposition of `a`, m ≥ r, by Householder reflections. As LAPACK has it, and with it PyTorch, a
 * reflection gives its column the sign opposite to the entry it starts with, and the last column of a square matrix is
 * left alone: the signs of Q's columns follow.
 */
export function orthonormalise(a: Value): Value {
  const [m, r] = a.shape as [number, number];
  const unit = (k: number) =>
    constant(
      tensor(
        "float32",
        [m, 1],
        indicator(m, (row) => row === k),
      ),
    );
  const reflections: Value[] = [];
  const reflected = (x: Value, v: Value) =>
    ops.sub(x, ops.matmul(v, ops.mul(ops.gemm(v, x, undefined, { transA: true }), 2)));
  let rest = a;
  for (let k = 0; k < Math.min(r, m - 1); k++) {
    const below = constant(
      tensor(
        "float32",
        [m, 1],
        indicator(m, (row) => row >= k),
      ),
    );
    const x = ops.mul(ops.slice(rest, 1, k, k + 1), below);
    const length = ops.reduceL2(x, [0]);
    const head = ops.slice(x, 0, k, k + 1);
    const target = ops.where(ops.less(head, 0), ops.neg(length), length);
    const v = ops.add(x, ops.mul(unit(k), target));
    reflections.push(ops.div(v, ops.reduceL2(v, [0])));
    rest = reflected(rest, reflections[k] as Value);
  }
  const columns = Float32Array.from({ length: m * r }, (_, at) => (Math.floor(at / r) === at % r ? 1 : 0));
  return reflections.reduceRight(reflected, constant(tensor("float32", [m, r], columns)));
}

const indicator = (count: number, holds: (at: number) => boolean): Float32Array =>
  Float32Array.from({ length: count }, (_, at) => (holds(at) ? 1 : 0));
