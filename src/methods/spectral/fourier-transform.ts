import { ops, type Value } from "../../graph/index.js";

/** Rows and columns of a matrix. */
export type Size = readonly [rows: number, columns: number];
type Place = readonly [row: number, column: number];

/** Frequencies of a side up to the highest: k and size − k are one, but for the sine's sign. */
const halfOf = (size: number): number => Math.floor(size / 2) + 1;

/** cos or sin of 2π·k·place / size, `[half, half]`, k and place up to the half. */
export function halfWaves(size: number, wave: "cos" | "sin"): Float32Array {
  const half = halfOf(size);
  return Float32Array.from({ length: half * half }, (_, at) => {
    const turns = (Math.floor(at / half) * (at % half)) % size;
    return Math[wave]((2 * Math.PI * turns) / size);
  });
}

/** Where entries stand among the frequencies up to the half, as flat places, and the sign of each one's product of sines. */
export function foldedPlaces(
  places: readonly Place[],
  [rows, columns]: Size,
): { readonly places: Int32Array; readonly signs: Float32Array } {
  const folded = (at: number, size: number) =>
    at < halfOf(size) ? ([at, 1] as const) : ([size - at, -1] as const);
  const both = places.map(([row, column]) => [folded(row, rows), folded(column, columns)] as const);
  return {
    places: Int32Array.from(both, ([[row], [column]]) => row * halfOf(columns) + column),
    signs: Float32Array.from(both, ([[, a], [, b]]) => a * b),
  };
}

/** What `foldedTransform` reads: square waves of both sides, places and signs of the entries. */
export interface FoldedWaves {
  readonly rowCos: Value;
  readonly rowSin: Value;
  readonly columnCos: Value;
  readonly columnSin: Value;
  readonly places: Value;
  readonly signs: Value;
}

/**
 * Σ eₖ·cos(2π(uₖ·row / rows + vₖ·column / columns)) `[rows, columns]`: the real part of a sparse spectrum's transform,
 * unscaled. As cos(a + b) = cos·cos − sin·sin, and both are even or odd about the middle, products a quarter as large give
 * all four quarters: of the sum of the two parts, or their difference.
 */
export function foldedTransform(entries: Value, size: Size, waves: FoldedWaves): Value {
  const halves: Size = [halfOf(size[0]), halfOf(size[1])];
  const spread = (values: Value) => {
    const zeros = ops.full([halves[0] * halves[1]], 0, entries.dtype);
    const at = ops.unsqueeze(ops.cast(waves.places, "int64"), 1);
    return ops.reshape(ops.scatterNd(zeros, at, values, "add"), halves);
  };
  const even = ops.matmul(ops.matmul(waves.rowCos, spread(entries)), waves.columnCos);
  const odd = ops.matmul(ops.matmul(waves.rowSin, spread(ops.mul(entries, waves.signs))), waves.columnSin);
  return quarters(ops.sub(even, odd), ops.add(even, odd), size);
}

/** `axis` from `last` down to 1. */
const mirrored = (x: Value, axis: number, last: number): Value => ops.slice(x, axis, last, 0, -1);

/**
 * Both products put together: `near` where row and column are both in the first half or both in the second, `far` elsewhere,
 * mirrored. Its derivative is written down, as that of a mirrored slice would be scattered number by number.
 */
function quarters(near: Value, far: Value, size: Size): Value {
  const [rows, columns] = size;
  const right = (x: Value) => mirrored(x, 1, columns - halfOf(columns));
  const top = ops.concat([near, right(far)], 1);
  const bottom = ops.concat([far, right(near)], 1);
  const whole = ops.concat([top, mirrored(bottom, 0, rows - halfOf(rows))], 0);
  return ops.customVjp(whole, [near, far], [], (_, dy) => folded(dy, size));
}

/** The adjoint of `quarters`. */
function folded(dy: Value, [rows, columns]: Size): readonly [near: Value, far: Value] {
  const halves = (x: Value, axis: number, size: number) => {
    const half = halfOf(size);
    const rest = ops.slice(x, axis, size, half - 1, -1);
    const [before, after] = [[0, 0].with(axis, 1), [0, 0].with(axis, half - 1 - (size - half))];
    return [ops.slice(x, axis, 0, half), ops.pad(rest, before, after)] as const;
  };
  const [top, bottom] = halves(dy, 0, rows);
  const [topLeft, topRight] = halves(top, 1, columns);
  const [bottomLeft, bottomRight] = halves(bottom, 1, columns);
  return [ops.add(topLeft, bottomRight), ops.add(topRight, bottomLeft)];
}
