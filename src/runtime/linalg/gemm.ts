import { checkMatrix, type Matrix, type Matrix64, shapeError, zeros } from "./matrix.js";

/** Which operands enter a product transposed. */
export interface GemmOptions {
  readonly transposeA?: boolean;
  readonly transposeB?: boolean;
}

/**
 * A matrix product somebody else computes, for products too large for one JavaScript thread: `op(a) op(b)`.
 * `gemmOnRuntime` builds one over ONNX Runtime.
 */
export type GemmBackend = (a: Matrix, b: Matrix, options: GemmOptions) => Promise<Matrix>;

/** The backend that runs `gemm` in this thread, in double precision. */
export const gemmInThread: GemmBackend = async (a, b, options) => gemm(a, b, options);

/**
 * Matrix product `op(a) op(b)` in double precision, `op` being the transpose where asked.
 * Cache-blocked with a 4x4 register tile; about 3 GFLOP/s (bench/linalg.mjs).
 *
 * @param a `[m, k]`, or `[k, m]` with `transposeA`
 * @param b `[k, n]`, or `[n, k]` with `transposeB`
 * @returns `[m, n]`
 * @throws `shape-mismatch` when the inner dimensions differ.
 * @example
 * ```ts
 * import { gemm, matrix } from "tunesmith/runtime";
 * const gram = gemm(matrix([[1, 2]]), matrix([[1, 2]]), { transposeA: true }); // [[1, 2], [2, 4]]
 * ```
 */
export function gemm(a: Matrix, b: Matrix, options: GemmOptions = {}): Matrix64 {
  const [m, k] = options.transposeA ? [a.cols, a.rows] : [a.rows, a.cols];
  const [k2, n] = options.transposeB ? [b.cols, b.rows] : [b.rows, b.cols];
  if (k !== k2) shapeError("gemm", `inner dimensions differ: [${m}, ${k}] x [${k2}, ${n}]`);
  if (a.data.length !== m * k) checkMatrix(a, "gemm");
  if (b.data.length !== k * n) checkMatrix(b, "gemm");
  const out = zeros(m, n);
  gemmAdd(
    m,
    n,
    k,
    1,
    options.transposeA ? { data: a.data, offset: 0, rowStride: 1, colStride: m } : block(a.data, k),
    options.transposeB ? { data: b.data, offset: 0, rowStride: 1, colStride: k } : block(b.data, n),
    { data: out.data, offset: 0, rowStride: n },
  );
  return out;
}

/** A strided window into somebody's numbers: entry (i, j) is `data[offset + i * rowStride + j * colStride]`. */
export interface Strided {
  readonly data: Float32Array | Float64Array;
  readonly offset: number;
  readonly rowStride: number;
  readonly colStride: number;
}

/** Where a product is added: unit column stride, double precision. */
export interface Target {
  readonly data: Float64Array;
  readonly offset: number;
  readonly rowStride: number;
}

/** A row-major window starting at `offset`. */
export function block(data: Float32Array | Float64Array, rowStride: number, offset = 0): Strided {
  return { data, offset, rowStride, colStride: 1 };
}

/** The transpose of a row-major window. */
export function transposed(data: Float32Array | Float64Array, rowStride: number, offset = 0): Strided {
  return { data, offset, rowStride: 1, colStride: rowStride };
}

const TILE = 4;
// 256 x 4 doubles of each operand (16 kB) fit the first-level cache; 128 x 256 of A (256 kB) the second.
const DEPTH = 256;
const ROWS = 128;
const COLS = 1024;

const roundUp = (value: number): number => Math.ceil(value / TILE) * TILE;

/** `c += alpha * a b` for `a` `[m, k]`, `b` `[k, n]`, `c` `[m, n]`; the operands must not overlap `c`. */
export function gemmAdd(
  m: number,
  n: number,
  k: number,
  alpha: number,
  a: Strided,
  b: Strided,
  c: Target,
): void {
  if (m === 0 || n === 0 || k === 0) return;
  const packedA = new Float64Array(roundUp(Math.min(m, ROWS)) * Math.min(k, DEPTH));
  const packedB = new Float64Array(roundUp(Math.min(n, COLS)) * Math.min(k, DEPTH));
  for (let j = 0; j < n; j += COLS) {
    const width = Math.min(COLS, n - j);
    for (let p = 0; p < k; p += DEPTH) {
      const depth = Math.min(DEPTH, k - p);
      pack(
        packedB,
        b.data,
        b.offset + p * b.rowStride + j * b.colStride,
        b.colStride,
        b.rowStride,
        width,
        depth,
      );
      for (let i = 0; i < m; i += ROWS) {
        const height = Math.min(ROWS, m - i);
        pack(
          packedA,
          a.data,
          a.offset + i * a.rowStride + p * a.colStride,
          a.rowStride,
          a.colStride,
          height,
          depth,
        );
        multiplyPacked(
          height,
          width,
          depth,
          alpha,
          packedA,
          packedB,
          c.data,
          c.offset + i * c.rowStride + j,
          c.rowStride,
        );
      }
    }
  }
}

/** Copies `count` vectors of length `depth` into panels of TILE interleaved vectors, padding the last with zeros. */
function pack(
  out: Float64Array,
  data: Float32Array | Float64Array,
  offset: number,
  stride: number,
  depthStride: number,
  count: number,
  depth: number,
): void {
  for (let panel = 0, o = 0; panel < count; panel += TILE, o += TILE * depth) {
    const present = Math.min(TILE, count - panel);
    for (let lane = 0; lane < TILE; lane++) {
      if (lane >= present) {
        for (let p = 0; p < depth; p++) out[o + p * TILE + lane] = 0;
        continue;
      }
      const start = offset + (panel + lane) * stride;
      for (let p = 0; p < depth; p++) out[o + p * TILE + lane] = data[start + p * depthStride] as number;
    }
  }
}

const edge = new Float64Array(TILE * TILE);

function multiplyPacked(
  height: number,
  width: number,
  depth: number,
  alpha: number,
  a: Float64Array,
  b: Float64Array,
  c: Float64Array,
  offset: number,
  rowStride: number,
): void {
  for (let j = 0; j < width; j += TILE) {
    for (let i = 0; i < height; i += TILE) {
      const rows = Math.min(TILE, height - i);
      const cols = Math.min(TILE, width - j);
      if (rows === TILE && cols === TILE) {
        multiplyTile(depth, alpha, a, i * depth, b, j * depth, c, offset + i * rowStride + j, rowStride);
        continue;
      }
      edge.fill(0);
      multiplyTile(depth, alpha, a, i * depth, b, j * depth, edge, 0, TILE);
      for (let y = 0; y < rows; y++) {
        for (let x = 0; x < cols; x++)
          (c[offset + (i + y) * rowStride + j + x] as number) += edge[y * TILE + x] as number;
      }
    }
  }
}

/** The register tile: sixteen running sums stay in registers for `depth` rank-one updates. */
function multiplyTile(
  depth: number,
  alpha: number,
  a: Float64Array,
  aStart: number,
  b: Float64Array,
  bStart: number,
  c: Float64Array,
  o0: number,
  rowStride: number,
): void {
  let c00 = 0,
    c01 = 0,
    c02 = 0,
    c03 = 0;
  let c10 = 0,
    c11 = 0,
    c12 = 0,
    c13 = 0;
  let c20 = 0,
    c21 = 0,
    c22 = 0,
    c23 = 0;
  let c30 = 0,
    c31 = 0,
    c32 = 0,
    c33 = 0;
  let p = aStart;
  let q = bStart;
  for (let t = 0; t < depth; t++) {
    const a0 = a[p] as number;
    const a1 = a[p + 1] as number;
    const a2 = a[p + 2] as number;
    const a3 = a[p + 3] as number;
    const b0 = b[q] as number;
    c00 += a0 * b0;
    c10 += a1 * b0;
    c20 += a2 * b0;
    c30 += a3 * b0;
    const b1 = b[q + 1] as number;
    c01 += a0 * b1;
    c11 += a1 * b1;
    c21 += a2 * b1;
    c31 += a3 * b1;
    const b2 = b[q + 2] as number;
    c02 += a0 * b2;
    c12 += a1 * b2;
    c22 += a2 * b2;
    c32 += a3 * b2;
    const b3 = b[q + 3] as number;
    c03 += a0 * b3;
    c13 += a1 * b3;
    c23 += a2 * b3;
    c33 += a3 * b3;
    p += TILE;
    q += TILE;
  }
  const o1 = o0 + rowStride;
  const o2 = o1 + rowStride;
  const o3 = o2 + rowStride;
  (c[o0] as number) += alpha * c00;
  (c[o0 + 1] as number) += alpha * c01;
  (c[o0 + 2] as number) += alpha * c02;
  (c[o0 + 3] as number) += alpha * c03;
  (c[o1] as number) += alpha * c10;
  (c[o1 + 1] as number) += alpha * c11;
  (c[o1 + 2] as number) += alpha * c12;
  (c[o1 + 3] as number) += alpha * c13;
  (c[o2] as number) += alpha * c20;
  (c[o2 + 1] as number) += alpha * c21;
  (c[o2 + 2] as number) += alpha * c22;
  (c[o2 + 3] as number) += alpha * c23;
  (c[o3] as number) += alpha * c30;
  (c[o3 + 1] as number) += alpha * c31;
  (c[o3 + 2] as number) += alpha * c32;
  (c[o3 + 3] as number) += alpha * c33;
}
