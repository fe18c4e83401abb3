import { TunesmithError } from "../../errors/index.js";
import { byteLengthOf, type Dtype } from "../dtype.js";
import { elementCount, fromBytes, type Tensor } from "../tensor.js";

/** Element type of an array as numpy names it, such as `<f4`, `|b1`, `>i8`, `<U12`. */
export interface NumpyType {
  readonly dtype: Dtype;
  /** Bytes of one element in the file. */
  readonly width: number;
  readonly bigEndian: boolean;
  /** Of fixed-width text: bytes (`S`) or code points of 4 bytes (`U`). */
  readonly text: "S" | "U" | undefined;
}

const TYPES: Readonly<Record<string, Dtype>> = {
  f4: "float32",
  f8: "float64",
  f2: "float16",
  i1: "int8",
  i2: "int16",
  i4: "int32",
  i8: "int64",
  u1: "uint8",
  u2: "uint16",
  u4: "uint32",
  u8: "uint64",
  b1: "bool",
};

/** Parses a numpy type string. Throws `dtype-unsupported` for objects, dates, complex numbers and records. */
export function numpyType(descr: string, file: string): NumpyType {
  const match = /^([<>|=]?)([a-zA-Z])(\d{0,6})$/.exec(descr);
  const [, order = "", letter = "", digits = ""] = match ?? [];
  const bigEndian = order === ">";
  const dtype = Object.hasOwn(TYPES, letter + digits) ? TYPES[letter + digits] : undefined;
  if (dtype) return { dtype, width: Number(digits), bigEndian, text: undefined };
  const isText = Number(digits) > 0;
  if (isText && (letter === "S" || letter === "a"))
    return { dtype: "string", width: Number(digits), bigEndian, text: "S" };
  if (isText && letter === "U") return { dtype: "string", width: 4 * Number(digits), bigEndian, text: "U" };
  const what =
    letter === "O"
      ? "holds Python objects, which are a pickle and are not read"
      : `has elements of type '${descr.slice(0, 40)}'`;
  throw new TunesmithError("dtype-unsupported", `${file}: the array ${what}`, {
    fix: "save it as numbers, booleans or fixed-width text: array.astype(...)",
    details: { file, descr },
  });
}

/** The numpy type string of a tensor. Throws `dtype-unsupported` for bfloat16 and the 4-bit types. */
export function numpyDescr(tensor: Tensor, name: string): string {
  if (tensor.dtype === "string") {
    const longest = (tensor.data as readonly string[]).reduce(
      (most, text) => Math.max(most, [...text].length),
      1,
    );
    return `<U${longest}`;
  }
  const found = Object.entries(TYPES).find(([, dtype]) => dtype === tensor.dtype)?.[0];
  if (found) return `${found.endsWith("1") ? "|" : "<"}${found}`;
  throw new TunesmithError("dtype-unsupported", `'${name}': numpy has no type for ${tensor.dtype}`, {
    fix: "cast the tensor to float32 first",
    details: { name, dtype: tensor.dtype },
  });
}

/** The tensor of a row-major array's bytes, whatever their byte order. */
export function decodeNumpy(type: NumpyType, shape: readonly number[], bytes: Uint8Array): Tensor {
  if (type.text)
    return { dtype: "string", shape: [...shape], data: decodeTexts(type, elementCount(shape), bytes) };
  const ordered = type.bigEndian && type.width > 1 ? swapped(bytes, type.width) : bytes;
  return fromBytes(type.dtype, shape, ordered);
}

function swapped(bytes: Uint8Array, width: number): Uint8Array {
  const out = new Uint8Array(bytes.byteLength);
  for (let at = 0; at < bytes.byteLength; at++) {
    out[at - (at % width) + (width - 1 - (at % width))] = bytes[at] as number;
  }
  return out;
}

function decodeTexts(type: NumpyType, count: number, bytes: Uint8Array): string[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return Array.from({ length: count }, (_, index) => {
    const start = index * type.width;
    let text = "";
    for (let at = start; at < start + type.width; at += type.text === "U" ? 4 : 1) {
      const code = type.text === "U" ? view.getUint32(at, !type.bigEndian) : view.getUint8(at);
      text += code <= 0x10ffff ? String.fromCodePoint(code) : "\ufffd";
    }
    return text.replace(/\0+$/, "");
  });
}

/** The bytes of strings as `descr` (`<U…`) lays them out. */
export function encodeTexts(texts: readonly string[], descr: string): Uint8Array {
  const width = Number(descr.slice(2));
  const out = new Uint8Array(texts.length * width * 4);
  const view = new DataView(out.buffer);
  texts.forEach((text, index) => {
    [...text].forEach((character, at) => {
      view.setUint32((index * width + at) * 4, character.codePointAt(0) ?? 0, true);
    });
  });
  return out;
}

/** Bytes of an array in its file. */
export function numpyBytes(type: NumpyType, count: number): number {
  return type.text ? type.width * count : byteLengthOf(type.dtype, count);
}
