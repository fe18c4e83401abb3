import { TunesmithError } from "../../errors/index.js";

/** A dense row-major matrix: entry (i, j) is `data[i * cols + j]`. Plain data; no views, no strides. */
export interface Matrix<D extends Float32Array | Float64Array = Float32Array | Float64Array> {
  readonly rows: number;
  readonly cols: number;
  readonly data: D;
}

/** A matrix in double precision; what every function here returns. */
export type Matrix64 = Matrix<Float64Array>;

/**
 * Builds a double-precision matrix from rows of numbers, or wraps data that is already row-major.
 *
 * @throws `shape-mismatch` when the rows differ in length or the data does not hold `rows * cols` numbers.
 * @example
 * ```ts
 * import { matrix, svd } from "tunesmith/runtime";
 * const { s } = svd(matrix([[3, 0], [0, 2]])); // s = [3, 2]
 * ```
 */
export function matrix(rows: readonly (readonly number[])[]): Matrix64 {
  const cols = rows[0]?.length ?? 0;
  const out = zeros(rows.length, cols);
  rows.forEach((row, i) => {
    if (row.length !== cols) {
      throw new TunesmithError("shape-mismatch", `row ${i} has ${row.length} entries, row 0 has ${cols}`, {
        fix: "give every row the same number of entries",
      });
    }
    out.data.set(row, i * cols);
  });
  return out;
}

/** A `rows x cols` matrix of zeros. */
export function zeros(rows: number, cols: number): Matrix64 {
  return { rows, cols, data: new Float64Array(rows * cols) };
}

/** The `rows x cols` matrix with ones on the main diagonal. */
export function identity(rows: number, cols = rows): Matrix64 {
  const out = zeros(rows, cols);
  for (let i = 0; i < Math.min(rows, cols); i++) out.data[i * cols + i] = 1;
  return out;
}

/** The square matrix with `values` on its diagonal. */
export function diagonal(values: ArrayLike<number>): Matrix64 {
  const out = zeros(values.length, values.length);
  for (let i = 0; i < values.length; i++) out.data[i * values.length + i] = values[i] as number;
  return out;
}

/** A double-precision copy. */
export function toFloat64(a: Matrix): Matrix64 {
  return { rows: a.rows, cols: a.cols, data: Float64Array.from(a.data) };
}

/** A single-precision copy, for feeding results back into a model. */
export function toFloat32(a: Matrix): Matrix<Float32Array> {
  return { rows: a.rows, cols: a.cols, data: Float32Array.from(a.data) };
}

/** The transpose, `[cols, rows]`, as a copy. */
export function transpose(a: Matrix): Matrix64 {
  const { rows, cols, data } = a;
  const out = new Float64Array(rows * cols);
  // 32 x 32 tiles keep both the reads and the writes inside the cache.
  for (let i0 = 0; i0 < rows; i0 += 32) {
    for (let j0 = 0; j0 < cols; j0 += 32) {
      const iEnd = Math.min(rows, i0 + 32);
      const jEnd = Math.min(cols, j0 + 32);
      for (let i = i0; i < iEnd; i++)
        for (let j = j0; j < jEnd; j++) out[j * rows + i] = data[i * cols + j] as number;
    }
  }
  return { rows: cols, cols: rows, data: out };
}

/** Rows `rowStart <= i < rowEnd` and columns `colStart <= j < colEnd`, as a copy. */
export function slice(a: Matrix, rowStart: number, rowEnd: number, colStart = 0, colEnd = a.cols): Matrix64 {
  const cols = colEnd - colStart;
  const out = zeros(rowEnd - rowStart, cols);
  for (let i = rowStart; i < rowEnd; i++) {
    out.data.set(a.data.subarray(i * a.cols + colStart, i * a.cols + colEnd), (i - rowStart) * cols);
  }
  return out;
}

/** Column j multiplied by `factors[j]`: `A diag(factors)`. */
export function scaleColumns(a: Matrix, factors: ArrayLike<number>): Matrix64 {
  const out = toFloat64(a);
  for (let i = 0, p = 0; i < a.rows; i++)
    for (let j = 0; j < a.cols; j++, p++) (out.data[p] as number) *= factors[j] as number;
  return out;
}

/** Frobenius norm. */
export function frobeniusNorm(a: Matrix): number {
  const largest = maxAbs(a);
  if (largest === 0 || !Number.isFinite(largest)) return largest;
  let sum = 0;
  for (let i = 0; i < a.data.length; i++) sum += ((a.data[i] as number) / largest) ** 2;
  return largest * Math.sqrt(sum);
}

/** The largest absolute entry; NaN when an entry is NaN, 0 for an empty matrix. */
export function maxAbs(a: Matrix): number {
  let largest = 0;
  for (let i = 0; i < a.data.length; i++) {
    const value = Math.abs(a.data[i] as number);
    if (!(value <= largest)) largest = value;
    if (Number.isNaN(value)) return value;
  }
  return largest;
}

/** Throws `shape-mismatch` when `data` does not hold the matrix, `numerical-failure` when an entry is not finite. */
export function checkMatrix(a: Matrix, operation: string): void {
  const { rows, cols, data } = a;
  if (
    !Number.isInteger(rows) ||
    !Number.isInteger(cols) ||
    rows < 0 ||
    cols < 0 ||
    data.length !== rows * cols
  ) {
    throw new TunesmithError(
      "shape-mismatch",
      `${operation}: ${data.length} numbers cannot form a ${rows}x${cols} matrix`,
      {
        fix: "pass data of length rows * cols",
      },
    );
  }
  if (Number.isFinite(maxAbs(a))) return;
  const index = data.findIndex((value: number) => !Number.isFinite(value));
  throw new TunesmithError(
    "numerical-failure",
    `${operation}: entry (${Math.floor(index / cols)}, ${index % cols}) is ${data[index]}`,
    {
      fix: "remove NaN and infinite values first",
      details: { row: Math.floor(index / cols), column: index % cols },
    },
  );
}

/** As `checkMatrix`, and the matrix must be square. */
export function checkSquare(a: Matrix, operation: string): void {
  checkMatrix(a, operation);
  if (a.rows !== a.cols) shapeError(operation, `needs a square matrix, got ${a.rows}x${a.cols}`);
}

/** Throws `shape-mismatch`. */
export function shapeError(operation: string, problem: string): never {
  throw new TunesmithError("shape-mismatch", `${operation}: ${problem}`, {
    fix: "check the matrix dimensions",
  });
}
