import type { TunesmithError } from "../../../errors/index.js";
import { valuesOf } from "../../cast.js";
import { elementCount, type Tensor } from "../../tensor.js";
import { decodeNumpy, type NumpyType, numpyBytes, numpyType } from "../npy-dtype.js";
import { fortranStrides, gather } from "../strided.js";

type Bad = (why: string) => TunesmithError;

/** `numpy.dtype` of a pickle; its byte order comes with the state that follows. */
interface DtypeHolder {
  readonly kind: "numpy-dtype";
  readonly code: string;
  order: string;
}

/** An array of a pickle: a tensor whose type, shape and data come with the state that follows. */
interface ArrayHolder extends Tensor {
  readonly kind: "ndarray";
}

const emptyArray = (): ArrayHolder => ({
  kind: "ndarray",
  dtype: "uint8",
  shape: [0],
  data: new Uint8Array(0),
});

function isNumpyDtype(value: unknown): value is DtypeHolder {
  return typeof value === "object" && value !== null && "kind" in value && value.kind === "numpy-dtype";
}

const isHolder = (value: unknown): value is ArrayHolder =>
  typeof value === "object" && value !== null && "kind" in value && value.kind === "ndarray";

/** The functions by which numpy pickles scalars and arrays of numbers. */
export function numpyCalls(bad: Bad): Record<string, (args: unknown[]) => unknown> {
  const calls: Record<string, (args: unknown[]) => unknown> = {
    "numpy.dtype": ([code]) =>
      ({ kind: "numpy-dtype", code: String(code), order: "<" }) satisfies DtypeHolder,
    "numpy.ndarray": emptyArray,
    // Python 3 writes bytes into old protocols as latin-1 text.
    "_codecs.encode": ([text, encoding]) => {
      if (typeof text !== "string" || encoding !== "latin1") throw bad("text in an unexpected encoding");
      return Uint8Array.from(text, (character) => character.charCodeAt(0));
    },
  };
  for (const core of ["numpy.core.multiarray", "numpy._core.multiarray"]) {
    calls[`${core}.scalar`] = ([dtype, bytes]) => scalarOf(dtype, bytes, bad);
    calls[`${core}._reconstruct`] = emptyArray;
  }
  return calls;
}

function typeOf(dtype: unknown, bad: Bad): NumpyType {
  if (!isNumpyDtype(dtype)) throw bad("a numpy array without a type");
  return numpyType(`${dtype.order}${dtype.code}`, "a numpy array in the file");
}

function scalarOf(dtype: unknown, bytes: unknown, bad: Bad): number | boolean {
  const type = typeOf(dtype, bad);
  const raw = bytesOfState(bytes, bad);
  if (type.text || raw.byteLength !== type.width) throw bad("a damaged numpy number");
  const value = valuesOf(decodeNumpy(type, [1], raw))[0] as number;
  return type.dtype === "bool" ? value !== 0 : value;
}

function bytesOfState(value: unknown, bad: Bad): Uint8Array {
  if (value instanceof Uint8Array) return value;
  // Python 2's byte strings, when they happen not to be UTF-8, arrive as latin-1 text.
  if (typeof value === "string" && /^[\0-\xff]*$/.test(value)) {
    return Uint8Array.from(value, (character) => character.charCodeAt(0));
  }
  throw bad("a numpy array without bytes");
}

/** The state of a numpy type or array; false for anything else. */
export function setNumpyState(target: unknown, state: unknown, bad: Bad): boolean {
  if (isNumpyDtype(target)) {
    const order = Array.isArray(state) ? state[1] : undefined;
    if (order !== "<" && order !== ">" && order !== "|" && order !== "=")
      throw bad("a numpy type of unknown byte order");
    target.order = order;
    return true;
  }
  if (!isHolder(target)) return false;
  const [, shape, dtype, fortran, raw] = Array.isArray(state) ? state : [];
  if (!Array.isArray(shape) || !shape.every((length) => typeof length === "number"))
    throw bad("a damaged numpy array");
  const type = typeOf(dtype, bad);
  const bytes = bytesOfState(raw, bad);
  const lengths = shape as number[];
  if (bytes.byteLength !== numpyBytes(type, elementCount(lengths)))
    throw bad("a numpy array of the wrong length");
  if (fortran === true && !type.text && !type.bigEndian) {
    const view = { dtype: type.dtype, shape: lengths, strides: fortranStrides(lengths), offset: 0 };
    Object.assign(target, gather(view, bytes));
  } else Object.assign(target, decodeNumpy(type, lengths, bytes));
  return true;
}
