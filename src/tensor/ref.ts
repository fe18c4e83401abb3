import type { ByteSource } from "#io";
import { TunesmithError } from "../errors/index.js";
import { byteLengthOf, type Dtype } from "./dtype.js";
import { fromBytes, rowRange, type Tensor } from "./tensor.js";

/**
 * A tensor that stays in its file. Frozen weights are handed around so: whoever executes the graph maps the file
 * at `offset`, and nothing is copied. Read it with `readTensor` when the values themselves are needed.
 */
export interface TensorRef {
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  readonly source: ByteSource;
  /** Of the first byte, counted from the start of the source. */
  readonly offset: number;
  readonly byteLength: number;
  /** Name in the file. */
  readonly name: string;
}

/** Whether the values are still in their file. */
export function isTensorRef(value: Tensor | TensorRef): value is TensorRef {
  return "source" in value;
}

/** The tensor in memory; one that is there already is returned as it is. Throws what the source's `read` throws. */
export async function readTensor(ref: Tensor | TensorRef): Promise<Tensor> {
  if (!isTensorRef(ref)) return ref;
  return fromBytes(ref.dtype, ref.shape, await ref.source.read(ref.offset, ref.byteLength));
}

/**
 * Rows `start` to `end` (exclusive) of the first axis, reading nothing else. Throws `shape-mismatch` outside
 * the tensor.
 *
 * @returns `[end - start, ...]`
 */
export async function readRows(ref: TensorRef, start: number, end: number): Promise<Tensor> {
  const part = sliceRef(ref, start, end);
  return readTensor(part);
}

/** A reference to rows `start` to `end` (exclusive) of the first axis. Throws `shape-mismatch` outside the tensor. */
export function sliceRef(ref: TensorRef, start: number, end: number): TensorRef {
  const { from, to, shape } = rowRange(ref.dtype, ref.shape, start, end);
  const elementBytes = Math.max(1, byteLengthOf(ref.dtype, 1));
  return {
    ...ref,
    shape,
    offset: ref.offset + from * elementBytes,
    byteLength: (to - from) * elementBytes,
  };
}

/** The error for a name that a file does not hold, with the names that end alike. */
export function tensorNotFound(file: string, name: string, known: Iterable<string>): TunesmithError {
  const last = name.split(".").slice(-2).join(".");
  const names = [...known];
  const alike = names.filter((other) => other.endsWith(last));
  const shown = (alike.length > 0 ? alike : names).slice(0, 5).join(", ");
  return new TunesmithError("tensor-not-found", `${file}: no tensor "${name}" among its ${names.length}`, {
    fix: names.length > 0 ? `it holds for example: ${shown}` : "the file is empty; choose another one",
    details: { file, name },
  });
}
