import { checkMatrix, type Matrix, type Matrix64, shapeError, zeros } from "./matrix.js";

/**
 * One level of the orthonormal two-dimensional Haar transform (db1). The result holds four quadrants: averages
 * top left, left-right differences top right, top-bottom differences bottom left, diagonal ones bottom right.
 *
 * @param a `[rows, cols]`, both even
 * @throws `shape-mismatch` when a dimension is odd.
 * @example
 * ```ts
 * import { haar2d, matrix } from "tunesmith/runtime";
 * const spectrum = haar2d(matrix([[1, 1], [1, 1]])); // [[2, 0], [0, 0]]
 * ```
 */
export function haar2d(a: Matrix): Matrix64 {
  return butterflies(a, "haar2d", (rows, cols) => ({ from: pixels(cols), to: quadrants(rows, cols) }));
}

/**
 * Inverse of `haar2d` (WaveFT, arXiv 2505.12532, applies it to a sparse spectrum).
 *
 * @param a `[rows, cols]`, both even, quadrants as `haar2d` leaves them
 * @throws `shape-mismatch` when a dimension is odd.
 */
export function inverseHaar2d(a: Matrix): Matrix64 {
  return butterflies(a, "inverseHaar2d", (rows, cols) => ({ from: quadrants(rows, cols), to: pixels(cols) }));
}

/** Where the four numbers of block (i, j) lie. */
type Layout = (i: number, j: number) => readonly [number, number, number, number];

const pixels =
  (cols: number): Layout =>
  (i, j) => {
    const p = 2 * i * cols + 2 * j;
    return [p, p + 1, p + cols, p + cols + 1];
  };

const quadrants =
  (rows: number, cols: number): Layout =>
  (i, j) => {
    const p = i * cols + j;
    const down = (rows / 2) * cols;
    return [p, p + cols / 2, p + down, p + down + cols / 2];
  };

/** The 4x4 Haar butterfly is symmetric and its own inverse: both directions differ in layout only. */
function butterflies(
  a: Matrix,
  operation: string,
  layouts: (rows: number, cols: number) => { from: Layout; to: Layout },
): Matrix64 {
  checkMatrix(a, operation);
  const { rows, cols, data } = a;
  if (rows % 2 !== 0 || cols % 2 !== 0) shapeError(operation, `needs even dimensions, got ${rows}x${cols}`);
  const out = zeros(rows, cols);
  const { from, to } = layouts(rows, cols);
  for (let i = 0; i < rows / 2; i++) {
    for (let j = 0; j < cols / 2; j++) {
      const [a0, a1, a2, a3] = from(i, j);
      const [b0, b1, b2, b3] = to(i, j);
      const x = data[a0] as number;
      const y = data[a1] as number;
      const z = data[a2] as number;
      const w = data[a3] as number;
      out.data[b0] = (x + y + z + w) / 2;
      out.data[b1] = (x - y + z - w) / 2;
      out.data[b2] = (x + y - z - w) / 2;
      out.data[b3] = (x - y - z + w) / 2;
    }
  }
  return out;
}
