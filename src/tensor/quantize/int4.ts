/** How a matrix is cut into blocks of 4 bits. */
export interface Int4Layout {
  readonly rows: number;
  readonly columns: number;
  /** Columns that share a step: a power of two, at least 16. The last block of a row may be partial. */
  readonly blockSize: number;
  /** No zero points: the step's sign is chosen so that the largest magnitude is a code. */
  readonly symmetric: boolean;
}

/** A matrix in 4 bits as ONNX Runtime's MatMulNBits reads it: `(code − zero)·scale` per block. */
export interface Int4Matrix {
  /** `[rows, blocks, blockSize / 2]`, low nibble first. */
  readonly codes: Uint8Array;
  /** `[rows · blocks]` */
  readonly scales: Float32Array;
  /** `[rows, ceil(blocks / 2)]`, low nibble first; absent when symmetric, the zero is then 8. */
  readonly zeros?: Uint8Array;
}

const blocksOf = ({ columns, blockSize }: Int4Layout): number => Math.ceil(columns / blockSize);

/** The grid of one block: its step, and the code of zero. */
function gridOf(
  weight: Float32Array,
  from: number,
  to: number,
  symmetric: boolean,
): { scale: number; zero: number } {
  let [low, high] = [0, 0];
  for (let at = from; at < to; at++) {
    const value = weight[at] as number;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (symmetric) return { scale: Math.fround((high > -low ? high : low) / -8), zero: 8 };
  const scale = Math.fround(Math.fround(high - low) / 15);
  const zero = scale === 0 ? 0 : Math.max(0, Math.min(15, Math.round(-low / scale)));
  return { scale, zero };
}

const codeOf = (value: number, inverse: number, zero: number): number =>
  Math.max(0, Math.min(15, Math.round(value * inverse + zero)));

/**
 * Block-wise rounding to 4 bits, in the layout and with the grids of ONNX Runtime's quantiser.
 *
 * @param weight `[rows, columns]`
 */
export function quantizeInt4(weight: Float32Array, layout: Int4Layout): Int4Matrix {
  const { rows, columns, blockSize, symmetric } = layout;
  const blocks = blocksOf(layout);
  const codes = new Uint8Array((rows * blocks * blockSize) / 2);
  const scales = new Float32Array(rows * blocks);
  const zeros = symmetric ? undefined : new Uint8Array(rows * Math.ceil(blocks / 2));
  for (let row = 0; row < rows; row++) {
    // The reference fills the half of a byte that no block uses with the middle.
    if (zeros && blocks % 2 === 1) setNibble(zeros, (row + 1) * (blocks + 1) - 1, 8);
    for (let block = 0; block < blocks; block++) {
      const from = row * columns + block * blockSize;
      const to = Math.min(from + blockSize, (row + 1) * columns);
      const { scale, zero } = gridOf(weight, from, to, symmetric);
      const at = row * blocks + block;
      scales[at] = scale;
      if (zeros) setNibble(zeros, row * Math.ceil(blocks / 2) * 2 + block, zero);
      const inverse = scale === 0 ? 0 : 1 / scale;
      const start = at * blockSize;
      for (let k = 0; k < to - from; k++)
        setNibble(codes, start + k, codeOf(weight[from + k] as number, inverse, zero));
    }
  }
  return zeros ? { codes, scales, zeros } : { codes, scales };
}

function setNibble(bytes: Uint8Array, index: number, code: number): void {
  const at = index >> 1;
  bytes[at] = (bytes[at] as number) | (index % 2 === 0 ? code : code << 4);
}

const nibble = (bytes: Uint8Array, index: number): number =>
  ((bytes[index >> 1] as number) >> (index % 2 === 0 ? 0 : 4)) & 15;

/** The numbers behind the codes, `[rows, columns]`. */
export function dequantizeInt4({ codes, scales, zeros }: Int4Matrix, layout: Int4Layout): Float32Array {
  const { rows, columns, blockSize } = layout;
  const blocks = blocksOf(layout);
  const out = new Float32Array(rows * columns);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const block = Math.floor(column / blockSize);
      const at = row * blocks + block;
      const zero = zeros ? nibble(zeros, row * Math.ceil(blocks / 2) * 2 + block) : 8;
      const code = nibble(codes, at * blockSize + (column % blockSize));
      out[row * columns + column] = (code - zero) * (scales[at] as number);
    }
  }
  return out;
}
