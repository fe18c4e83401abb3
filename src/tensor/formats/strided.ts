import { TunesmithError } from "../../errors/index.js";
import { byteLengthOf, type Dtype } from "../dtype.js";
import { elementCount, fromBytes, type Tensor } from "../tensor.js";

/** A view that repeats elements (a stride of 0) may be larger than its file, but not without bound. */
const MAX_EXPANDED = 1 << 26;

/** A view of a flat storage, in elements. */
export interface StridedView {
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  readonly strides: readonly number[];
  readonly offset: number;
}

/** Whether the elements lie one after the other in row-major order; axes of length 1 may have any stride. */
export function isContiguous({ shape, strides }: StridedView): boolean {
  let expected = 1;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    const length = shape[axis] as number;
    if (length !== 1 && strides[axis] !== expected) return false;
    expected *= length;
  }
  return true;
}

/**
 * Elements from the view's first to its last in the storage, after a check that they lie inside it. Throws
 * `file-corrupt` when they do not, or when the view repeats more elements than is sane.
 */
export function spanOf(view: StridedView, storageElements: number, name: string): number {
  const { shape, strides, offset } = view;
  const count = elementCount(shape, name);
  const whole = [...strides, offset].every((value) => Number.isSafeInteger(value) && value >= 0);
  const last = shape.reduce((sum, length, axis) => sum + (length - 1) * (strides[axis] ?? Number.NaN), 0);
  const span = count === 0 ? 0 : last + 1;
  const fits = whole && strides.length === shape.length && offset + span <= storageElements;
  if (fits && (count <= storageElements || count <= MAX_EXPANDED)) return span;
  const seen = `shape [${shape.slice(0, 8)}], strides [${strides.slice(0, 8)}], offset ${offset}`;
  throw new TunesmithError(
    "file-corrupt",
    `${name}: ${seen} do not fit a storage of ${storageElements} elements`,
    { fix: "copy or download the file again", details: { name } },
  );
}

/**
 * The view made contiguous.
 *
 * @param bytes The storage from the view's first element on, at least its span.
 */
export function gather(view: StridedView, bytes: Uint8Array): Tensor {
  const { dtype, shape, strides } = view;
  const count = elementCount(shape);
  const width = byteLengthOf(dtype, 1);
  if (isContiguous(view)) return fromBytes(dtype, shape, bytes.subarray(0, count * width));
  const out = new Uint8Array(count * width);
  const index = new Array<number>(shape.length).fill(0);
  let from = 0;
  for (let to = 0; to < count; to++) {
    for (let byte = 0; byte < width; byte++) out[to * width + byte] = bytes[from * width + byte] as number;
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      const stride = strides[axis] as number;
      index[axis] = (index[axis] as number) + 1;
      from += stride;
      if ((index[axis] as number) < (shape[axis] as number)) break;
      from -= stride * (index[axis] as number);
      index[axis] = 0;
    }
  }
  return fromBytes(dtype, shape, out);
}

/** Strides of a column-major array, the order of Fortran and of numpy's `order="F"`. */
export function fortranStrides(shape: readonly number[]): number[] {
  let stride = 1;
  return shape.map((length) => {
    const own = stride;
    stride *= length;
    return own;
  });
}
