/** Rows as sums of planes of signs: `w[r, c] ≈ Σ_i scales[r, i] · signs[r, i, c]`, the largest scale first. */
export interface BinaryMatrix {
  /** `[rows, planes]`, positive where the row is not zero. */
  readonly scales: Float32Array;
  /** `[rows, planes, columns / 8]`, a bit per sign, lowest first, 1 for +; columns are padded to a multiple of 8. */
  readonly signs: Uint8Array;
}

export interface BinaryOptions {
  /** Planes q, 1 to 8. */
  readonly planes: number;
  /** Rounds of refinement after the greedy start. Default 15. */
  readonly rounds?: number;
  /** Receives the squared error of a row after the start and after every half step. */
  readonly onError?: (row: number, error: number) => void;
}

/** Bytes of one plane of one row. */
export const signBytes = (columns: number): number => Math.ceil(columns / 8);

/**
 * Binary-coding quantisation: each row greedily, sign(r) times mean |r| of what is left, then in turn the best scales for
 * the signs (least squares) and the best signs for the scales (the nearest of all 2^q sums). Neither half step makes the
 * error larger. The sign of zero is +.
 *
 * @param weight `[rows, columns]`
 * @example
 * ```ts
 * import { dequantizeBinary, quantizeBinary } from "tunesmith/tensor";
 * const packed = quantizeBinary(Float32Array.of(1, -0.5, 0.25, 0.1), 2, 2, { planes: 2 });
 * console.log(dequantizeBinary(packed, 2, 2, 2));
 * ```
 */
export function quantizeBinary(
  weight: Float32Array,
  rows: number,
  columns: number,
  { planes, rounds = 15, onError }: BinaryOptions,
): BinaryMatrix {
  const scales = new Float32Array(rows * planes);
  const bytes = signBytes(columns);
  const signs = new Uint8Array(rows * planes * bytes);
  for (let row = 0; row < rows; row++) {
    const own = Float64Array.from(weight.subarray(row * columns, (row + 1) * columns));
    const found = codeRow(own, planes, rounds, (error) => onError?.(row, error));
    for (const [plane, { scale, isPlus }] of found.entries()) {
      scales[row * planes + plane] = scale;
      isPlus.forEach((plus, column) => {
        const at = (row * planes + plane) * bytes + (column >> 3);
        if (plus) signs[at] = (signs[at] as number) | (1 << (column & 7));
      });
    }
  }
  return { scales, signs };
}

interface Plane {
  readonly scale: number;
  readonly isPlus: Uint8Array;
}

function codeRow(
  row: Float64Array,
  planes: number,
  rounds: number,
  onError: (error: number) => void,
): Plane[] {
  const codes = new Uint8Array(row.length);
  let scales = greedy(row, planes, codes);
  onError(errorOf(row, codes, scales));
  for (let round = 0; round < rounds; round++) {
    scales = bestScales(row, codes, scales);
    onError(errorOf(row, codes, scales));
    if (!nearestCodes(row, codes, scales)) break;
    onError(errorOf(row, codes, scales));
  }
  scales = bestScales(row, codes, scales);
  onError(errorOf(row, codes, scales));
  return scales
    .map((scale, plane): Plane => {
      const isPlus = codes.map((code) => ((code >> plane) & 1) ^ (scale < 0 ? 1 : 0));
      return { scale: Math.abs(scale), isPlus };
    })
    .sort((a, b) => b.scale - a.scale);
}

/** Signs as bits of `codes`, one plane per bit. */
function greedy(row: Float64Array, planes: number, codes: Uint8Array): number[] {
  const rest = row.slice();
  return Array.from({ length: planes }, (_, plane) => {
    const scale = rest.reduce((sum, value) => sum + Math.abs(value), 0) / rest.length;
    rest.forEach((value, at) => {
      const plus = value >= 0;
      if (plus) codes[at] = (codes[at] as number) | (1 << plane);
      rest[at] = value - (plus ? scale : -scale);
    });
    return scale;
  });
}

const sumOf = (code: number, scales: readonly number[]): number =>
  scales.reduce((sum, scale, plane) => sum + ((code >> plane) & 1 ? scale : -scale), 0);

const errorOf = (row: Float64Array, codes: Uint8Array, scales: readonly number[]): number =>
  row.reduce((sum, value, at) => sum + (value - sumOf(codes[at] as number, scales)) ** 2, 0);

/** Least squares for fixed signs; the scales as they are where two planes coincide. */
function bestScales(row: Float64Array, codes: Uint8Array, scales: readonly number[]): number[] {
  const q = scales.length;
  const system = Array.from({ length: q }, () => new Float64Array(q + 1));
  for (let at = 0; at < row.length; at++) {
    const code = codes[at] as number;
    for (let i = 0; i < q; i++) {
      const sign = (code >> i) & 1 ? 1 : -1;
      const own = system[i] as Float64Array;
      for (let j = 0; j < q; j++) own[j] = (own[j] as number) + sign * ((code >> j) & 1 ? 1 : -1);
      own[q] = (own[q] as number) + sign * (row[at] as number);
    }
  }
  return eliminate(system) ?? [...scales];
}

/** Solves `[A | b]` by elimination with pivots; undefined when A is singular. */
function eliminate(system: Float64Array[]): number[] | undefined {
  const q = system.length;
  for (let k = 0; k < q; k++) {
    let pivot = k;
    for (let i = k + 1; i < q; i++)
      if (Math.abs(system[i]?.[k] as number) > Math.abs(system[pivot]?.[k] as number)) pivot = i;
    [system[k], system[pivot]] = [system[pivot] as Float64Array, system[k] as Float64Array];
    const top = system[k] as Float64Array;
    if (Math.abs(top[k] as number) < 1e-9) return undefined;
    for (let i = 0; i < q; i++) {
      if (i === k) continue;
      const own = system[i] as Float64Array;
      const factor = (own[k] as number) / (top[k] as number);
      for (let j = k; j <= q; j++) own[j] = (own[j] as number) - factor * (top[j] as number);
    }
  }
  return system.map((own, k) => (own[q] as number) / (own[k] as number));
}

/** Every number takes the nearest of the 2^q sums; whether any changed. */
function nearestCodes(row: Float64Array, codes: Uint8Array, scales: readonly number[]): boolean {
  const levels = Array.from({ length: 2 ** scales.length }, (_, code) => ({
    code,
    sum: sumOf(code, scales),
  }));
  levels.sort((a, b) => a.sum - b.sum);
  let changed = false;
  for (let at = 0; at < row.length; at++) {
    const value = row[at] as number;
    let [low, high] = [0, levels.length - 1];
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if ((levels[middle]?.sum as number) <= value) low = middle;
      else high = middle;
    }
    const [left, right] = [levels[low], levels[high]] as [
      { code: number; sum: number },
      { code: number; sum: number },
    ];
    const { code, sum } = value - left.sum < right.sum - value ? left : right;
    // A tie is no reason to change: two codes may stand for one number.
    if (Math.abs(value - sum) < Math.abs(value - sumOf(codes[at] as number, scales)) - 1e-12) {
      codes[at] = code;
      changed = true;
    }
  }
  return changed;
}

/** Signs of one plane as numbers, `[rows, columns]` of +1 and −1. */
export function binaryPlane(
  { signs, scales }: BinaryMatrix,
  rows: number,
  columns: number,
  plane: number,
): Float32Array {
  const planes = scales.length / rows;
  const bytes = signBytes(columns);
  return Float32Array.from({ length: rows * columns }, (_, at) => {
    const [row, column] = [Math.floor(at / columns), at % columns];
    const byte = signs[(row * planes + plane) * bytes + (column >> 3)] as number;
    return (byte >> (column & 7)) & 1 ? 1 : -1;
  });
}

/** The numbers behind the planes, `[rows, columns]`. */
export function dequantizeBinary(
  matrix: BinaryMatrix,
  rows: number,
  columns: number,
  planes: number,
): Float32Array {
  const out = new Float32Array(rows * columns);
  for (let plane = 0; plane < planes; plane++) {
    const signs = binaryPlane(matrix, rows, columns, plane);
    for (let at = 0; at < out.length; at++)
      out[at] =
        (out[at] as number) +
        (signs[at] as number) * (matrix.scales[Math.floor(at / columns) * planes + plane] as number);
  }
  return out;
}
