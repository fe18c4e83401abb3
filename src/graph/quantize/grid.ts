import {
  blockMaxima,
  dequantizeMaxima,
  dequantizeScales,
  NF4,
  nearestLevel,
  nearestNf4,
  normalFloatLevels,
  packCodes,
  quantizeMaxima,
  quantizeScales,
  roundHalfEven,
  type Tensor,
  tensor,
} from "../../tensor/index.js";
import { normalFloatOf, normalFloatScaleParts, type QuantizedMatrix, quantizeMatrix } from "./matrix.js";
import { layoutOfNormalFloat, type Quantization } from "./settings.js";

/** The numbers that a quantised matrix can hold where its scales are fixed. Codes of int8 are signed. */
interface Grid {
  readonly scales: Float32Array;
  /** Code of zero per block, of int4. */
  readonly zeros: Uint8Array | undefined;
  /** Which scale a place has. */
  blockAt(row: number, column: number): number;
  code(value: number, block: number): number;
  value(code: number, block: number): number;
}

export interface Requantized {
  readonly matrix: QuantizedMatrix<Tensor>;
  /** Codes and scales that differ from the old matrix's. */
  readonly changed: number;
}

/**
 * Other numbers in a quantised matrix. Where they fit the range of the old scales these are kept, so that weights which did
 * not change stay exactly as they are.
 *
 * @param target `[rows, columns]`, row-major.
 * @param factor Upper triangular U `[columns, columns]` with UᵀU the inverse of the inputs' covariance: each rounding error
 *   is made up for by the weights after it in the row (GPTQ, arXiv 2210.17323). Default: every weight is rounded by itself.
 */
export function requantizeMatrix(
  old: QuantizedMatrix<Tensor>,
  target: Float32Array,
  factor?: Float64Array,
): Requantized {
  const scaled = withRange(old, target);
  const grid = gridOf(scaled);
  const codes = rounded(grid, target, old.columns, factor);
  const matrix = { ...scaled, parts: { ...scaled.parts, codes: packed(scaled, codes, grid) } };
  let changed = 0;
  for (const [name, part] of Object.entries(matrix.parts)) {
    const before = old.parts[name]?.data as Uint8Array;
    const now = part.data as Uint8Array;
    for (let at = 0; at < now.length; at++) changed += now[at] === before[at] ? 0 : 1;
  }
  return { matrix, changed };
}

/** Rounds row by row, from the first column to the last. */
function rounded(grid: Grid, target: Float32Array, columns: number, factor?: Float64Array): Int16Array {
  const codes = new Int16Array(target.length);
  const row = new Float64Array(columns);
  for (let at = 0; at * columns < target.length; at++) {
    row.set(target.subarray(at * columns, (at + 1) * columns));
    for (let column = 0; column < columns; column++) {
      const block = grid.blockAt(at, column);
      const wanted = row[column] as number;
      const code = grid.code(wanted, block);
      codes[at * columns + column] = code;
      const error = wanted - grid.value(code, block);
      if (factor && error !== 0)
        spread(row, error / (factor[column * columns + column] as number), factor, column);
    }
  }
  return codes;
}

function spread(row: Float64Array, error: number, factor: Float64Array, column: number): void {
  const start = column * row.length;
  for (let next = column + 1; next < row.length; next++)
    row[next] = (row[next] as number) - error * (factor[start + next] as number);
}

const clamp = (value: number, low: number, high: number) => Math.max(low, Math.min(high, value));

const floatsOf = (part: Tensor | undefined): Float32Array => part?.data as Float32Array;
const bytesOf = (part: Tensor | undefined): Uint8Array => part?.data as Uint8Array;

/** Block maxima of NF4 as they act. */
function maximaOf({ settings, parts }: QuantizedMatrix<Tensor>): Float32Array {
  if (!settings.doubleQuant) return floatsOf(parts.scales);
  const offset = floatsOf(parts.offset)[0] as number;
  return dequantizeMaxima({ codes: bytesOf(parts.scaleCodes), scales: floatsOf(parts.scaleScales), offset });
}

/** Codes that are places in a table, scaled by blocks that run on over row ends. */
function ofLevels(
  { columns, settings: { blockSize = columns } }: QuantizedMatrix<Tensor>,
  scales: Float32Array,
  levels: ArrayLike<number>,
  nearest: (value: number) => number,
): Grid {
  return {
    scales,
    zeros: undefined,
    blockAt: (row, column) => Math.floor((row * columns + column) / blockSize),
    code(value, block) {
      const scale = scales[block] as number;
      return nearest(scale > 0 ? value / scale : 0);
    },
    value: (code, block) => (levels[code] as number) * (scales[block] as number),
  };
}

function gridOf(matrix: QuantizedMatrix<Tensor>): Grid {
  const { rows, columns, settings, parts } = matrix;
  const { kind, blockSize = columns } = settings;
  if (kind === "int8") {
    const scales = floatsOf(parts.scales);
    return {
      scales,
      zeros: undefined,
      blockAt: (row) => row,
      code: (value, block) => clamp(roundHalfEven(value / (scales[block] as number)), -127, 127),
      value: (code, block) => code * (scales[block] as number),
    };
  }
  if (kind === "nf") {
    const layout = layoutOfNormalFloat(settings);
    const scales = dequantizeScales(normalFloatOf(matrix), layout, rows * columns);
    return ofLevels(matrix, scales, normalFloatLevels(layout.bits), nearestLevel(layout.bits));
  }
  if (kind === "nf4") return ofLevels(matrix, maximaOf(matrix), NF4, nearestNf4);
  const perRow = Math.ceil(columns / blockSize);
  const scales = floatsOf(parts.scales);
  const zeros = new Uint8Array(rows * perRow).fill(8);
  if (parts.zeros) {
    const width = Math.ceil(perRow / 2) * 2;
    const all = bytesOf(parts.zeros);
    zeros.forEach((_, at) => {
      zeros[at] = nibble(all, Math.floor(at / perRow) * width + (at % perRow));
    });
  }
  return {
    scales,
    zeros,
    blockAt: (row, column) => row * perRow + Math.floor(column / blockSize),
    code(value, block) {
      const scale = scales[block] as number;
      const zero = zeros[block] as number;
      return scale === 0 ? zero : clamp(Math.round(value / scale + zero), 0, 15);
    },
    value: (code, block) => (code - (zeros[block] as number)) * (scales[block] as number),
  };
}

const nibble = (bytes: Uint8Array, index: number): number =>
  ((bytes[index >> 1] as number) >> (index % 2 === 0 ? 0 : 4)) & 15;

function packed(
  { rows, columns, settings, parts }: QuantizedMatrix<Tensor>,
  codes: Int16Array,
  grid: Grid,
): Tensor {
  const { dtype, shape, data } = parts.codes as Tensor;
  if (settings.kind === "int8") return tensor(dtype, shape, Int8Array.from(codes));
  if (settings.kind === "nf")
    return tensor(dtype, shape, packCodes(codes, layoutOfNormalFloat(settings).bits));
  const bytes = new Uint8Array(data.length);
  const blockSize = settings.blockSize ?? columns;
  const perRow = Math.ceil(columns / blockSize) * blockSize;
  const set = (index: number, code: number, lowFirst: boolean) => {
    const low = (index % 2 === 0) === lowFirst;
    bytes[index >> 1] = (bytes[index >> 1] as number) | (low ? code : code << 4);
  };
  for (let row = 0; row < rows; row++)
    for (let column = 0; column < columns; column++) {
      const code = codes[row * columns + column] as number;
      if (grid.zeros) set(row * perRow + column, code, true);
      else set(row * columns + column, code, false);
    }
  return tensor(dtype, shape, bytes);
}

/** The least and the largest code. */
function rangeOf({ kind, bits = 4 }: Quantization): [number, number] {
  return kind === "int8" ? [-127, 127] : [0, 2 ** bits - 1];
}

/** How far beyond the largest number of a block its weights may go before it gets a new scale, in steps. */
const SLACK = 0.5;

/** The matrix with new scales for blocks whose numbers no longer fit. */
function withRange(old: QuantizedMatrix<Tensor>, target: Float32Array): QuantizedMatrix<Tensor> {
  const { rows, columns, settings } = old;
  const grid = gridOf(old);
  const outside = new Set<number>();
  const [lowest, highest] = rangeOf(settings);
  for (let row = 0; row < rows; row++)
    for (let column = 0; column < columns; column++) {
      const block = grid.blockAt(row, column);
      const value = target[row * columns + column] as number;
      const [a, b] = [grid.value(lowest, block), grid.value(highest, block)];
      const step = Math.abs(b - a) / (highest - lowest);
      if (value < Math.min(a, b) - SLACK * step || value > Math.max(a, b) + SLACK * step) outside.add(block);
    }
  if (outside.size === 0) return old;
  const chosen = grid.scales.slice();
  if (settings.kind === "nf") {
    const maxima = blockMaxima(target, settings.blockSize as number);
    for (const block of outside) chosen[block] = maxima[block] as number;
    const scales = quantizeScales(chosen, layoutOfNormalFloat(settings));
    return { ...old, parts: { ...old.parts, ...normalFloatScaleParts(scales) } };
  }
  const fresh = quantizeMatrix(target, rows, columns, { ...settings, doubleQuant: false });
  for (const block of outside) chosen[block] = floatsOf(fresh.parts.scales)[block] as number;
  if (settings.doubleQuant) return { ...old, parts: { ...old.parts, ...twice(chosen) } };
  const scales = tensor("float32", [chosen.length], chosen);
  const zeros = old.parts.zeros && fresh.parts.zeros ? mixedZeros(old, fresh, outside) : undefined;
  return { ...old, parts: { ...old.parts, scales, ...(zeros ? { zeros } : {}) } };
}

function twice(maxima: Float32Array): Record<string, Tensor> {
  const { codes, scales, offset } = quantizeMaxima(maxima);
  return {
    scaleCodes: tensor("uint8", [codes.length], codes),
    scaleScales: tensor("float32", [scales.length], scales),
    offset: tensor("float32", [], Float32Array.of(offset)),
  };
}

/** The old zero points, those of some blocks replaced. */
function mixedZeros(
  old: QuantizedMatrix<Tensor>,
  fresh: QuantizedMatrix<Tensor>,
  blocks: ReadonlySet<number>,
): Tensor {
  const { shape, data } = old.parts.zeros as Tensor;
  const bytes = (data as Uint8Array).slice();
  const perRow = Math.ceil(old.columns / (old.settings.blockSize ?? old.columns));
  const width = Math.ceil(perRow / 2) * 2;
  for (const block of blocks) {
    const index = Math.floor(block / perRow) * width + (block % perRow);
    const code = nibble(bytesOf(fresh.parts.zeros), index);
    const other = (bytes[index >> 1] as number) & (index % 2 === 0 ? 0xf0 : 0x0f);
    bytes[index >> 1] = other | (index % 2 === 0 ? code : code << 4);
  }
  return tensor("uint8", shape, bytes);
}
