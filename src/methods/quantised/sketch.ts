import { cholesky, inverse, transpose, zeros } from "../../runtime/linalg/index.js";

/** Sizes of a sketch: rows of codes, each row in contiguous groups with a book of numbers. */
export interface SketchLayout {
  readonly rows: number;
  readonly columns: number;
  readonly bits: number;
  /** Groups per row; a divisor of the columns. */
  readonly groups: number;
}

export interface Sketch {
  /** `[rows, columns]`, each below 2^bits. */
  readonly codes: Int32Array;
  /** `[rows, groups, 2^bits]`, ascending in each book. */
  readonly books: Float32Array;
}

export interface SketchOptions extends SketchLayout {
  /** XᵀX / n of the map's inputs `[columns, columns]`; without it every input counts the same by itself. */
  readonly covariance?: Float32Array | undefined;
  /** How much more the inputs count in the books that errors cannot be passed on from: weights U_jj^(−p). */
  readonly exponent: number;
  /** Share of the mean of the covariance's diagonal that is added to it. */
  readonly damping: number;
}

/**
 * A sketch of a weight `[rows, columns]` that keeps the map's outputs: books by weighted k-means over each group, codes
 * column by column, the error of each passed on to the columns after it (LeanQuant's way, arXiv 2410.06364 with GPTQ's order).
 */
export function buildSketch(weight: Float32Array, options: SketchOptions): Sketch {
  const { rows, columns, bits, groups } = options;
  const factor = errorFactor(options);
  const importance = Float64Array.from(
    { length: columns },
    (_, j) => (factor[j * columns + j] as number) ** -options.exponent,
  );
  const [size, width] = [2 ** bits, columns / groups];
  const books = new Float32Array(rows * groups * size);
  for (let row = 0; row < rows; row++)
    for (let group = 0; group < groups; group++) {
      const from = group * width;
      const own = Float64Array.from(weight.subarray(row * columns + from, row * columns + from + width));
      const book = weightedMeans(own, importance.subarray(from, from + width), size);
      books.set(book, (row * groups + group) * size);
    }
  return { books, codes: roundWithFeedback(weight, books, factor, options) };
}

/** U, upper triangular, with UᵀU the inverse of the damped covariance; the identity without one. */
function errorFactor({ columns, covariance, damping }: SketchOptions): Float64Array {
  const damped = zeros(columns, columns);
  if (!covariance) {
    for (let j = 0; j < columns; j++) damped.data[j * columns + j] = 1;
    return damped.data;
  }
  let trace = 0;
  for (let j = 0; j < columns; j++) trace += covariance[j * columns + j] as number;
  const added = (damping * trace) / columns || 1;
  covariance.forEach((value, at) => {
    damped.data[at] = 2 * (value + (at % (columns + 1) === 0 ? added : 0));
  });
  return transpose(cholesky(inverse(damped))).data as Float64Array;
}

const ROUNDS = 100;

/** Weighted k-means of numbers: from quantiles, ascending, until nothing moves. */
function weightedMeans(values: Float64Array, weights: Float64Array, count: number): Float64Array {
  const order = Uint32Array.from(values.keys()).sort((a, b) => (values[a] as number) - (values[b] as number));
  const centres = Float64Array.from({ length: count }, (_, k) => {
    const at = Math.min(order.length - 1, Math.floor(((k + 0.5) * order.length) / count));
    return values[order[at] as number] as number;
  });
  for (let round = 0; round < ROUNDS; round++) {
    const sums = new Float64Array(count);
    const totals = new Float64Array(count);
    for (let at = 0; at < values.length; at++) {
      const k = nearest(centres, 0, count, values[at] as number);
      sums[k] = (sums[k] as number) + (weights[at] as number) * (values[at] as number);
      totals[k] = (totals[k] as number) + (weights[at] as number);
    }
    let moved = 0;
    for (let k = 0; k < count; k++) {
      if (totals[k] === 0) continue;
      const next = (sums[k] as number) / (totals[k] as number);
      moved = Math.max(moved, Math.abs(next - (centres[k] as number)));
      centres[k] = next;
    }
    if (moved < 1e-6) break;
  }
  return centres.sort();
}

/** Index, from `from` on, of the nearest of `count` ascending numbers. */
function nearest(book: ArrayLike<number>, from: number, count: number, value: number): number {
  let best = 0;
  for (let k = 1; k < count; k++)
    if (Math.abs(value - (book[from + k] as number)) < Math.abs(value - (book[from + best] as number)))
      best = k;
  return best;
}

function roundWithFeedback(
  weight: Float32Array,
  books: Float32Array,
  factor: Float64Array,
  { rows, columns, bits, groups }: SketchLayout,
): Int32Array {
  const [size, width] = [2 ** bits, columns / groups];
  const codes = new Int32Array(rows * columns);
  for (let row = 0; row < rows; row++) {
    const rest = Float64Array.from(weight.subarray(row * columns, (row + 1) * columns));
    for (let j = 0; j < columns; j++) {
      const book = (row * groups + Math.floor(j / width)) * size;
      const code = nearest(books, book, size, rest[j] as number);
      codes[row * columns + j] = code;
      const error =
        ((rest[j] as number) - (books[book + code] as number)) / (factor[j * columns + j] as number);
      for (let k = j + 1; k < columns; k++)
        rest[k] = (rest[k] as number) - error * (factor[j * columns + k] as number);
    }
  }
  return codes;
}

/** The numbers behind the codes, `[rows, columns]`. */
export function readSketch({ codes, books }: Sketch, { columns, bits, groups }: SketchLayout): Float32Array {
  const [size, width] = [2 ** bits, columns / groups];
  return Float32Array.from(codes, (code, at) => {
    const [row, column] = [Math.floor(at / columns), at % columns];
    return books[(row * groups + Math.floor(column / width)) * size + code] as number;
  });
}
