import { type ByteSource, type FileLocation, openFile } from "#io";
import { TunesmithError } from "../../../errors/index.js";
import { corrupt, quote } from "../../safetensors/header.js";
import { isSource } from "../../safetensors/reader.js";
import { elementCount } from "../../tensor.js";
import { type Cursor, parseGrowing } from "../cursor.js";
import type { StoredTensor, TensorContainer } from "../stored.js";
import { dequantise } from "./dequantise.js";
import {
  ALIGNMENT_KEY,
  DEFAULT_ALIGNMENT,
  GGML_TYPES,
  type GgmlType,
  type GgufScalar,
  type GgufValue,
  MAGIC,
  VALUE_TYPES,
} from "./types.js";

/** An open GGUF file. */
export interface GgufFile extends TensorContainer {
  readonly metadata: ReadonlyMap<string, GgufValue>;
  /** How each tensor is stored: `F32`, `Q4_K`, ... */
  readonly types: ReadonlyMap<string, string>;
}

interface TensorInfo {
  readonly name: string;
  readonly shape: readonly number[];
  readonly type: GgmlType;
  readonly offset: number;
}

interface Header {
  readonly metadata: ReadonlyMap<string, GgufValue>;
  readonly infos: readonly TensorInfo[];
  readonly end: number;
}

/**
 * Opens a GGUF file (versions 2 and 3). Shapes are row-major, the last axis fastest, as in PyTorch. F32, F16, BF16, F64 and integer
 * tensors are references into the file; Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 and Q2_K to Q6_K are unpacked to float32 when they
 * are loaded.
 *
 * Throws `file-corrupt`, `format-unsupported` (version 1, big-endian), `dtype-unsupported` for other quantised types.
 *
 * @param location A path, URL, `Blob`, or an open source (which `close()` then closes).
 * @example
 * ```ts
 * import { openGguf } from "tunesmith/tensor";
 * const file = await openGguf("model.gguf");
 * console.log(file.metadata.get("general.architecture")?.value, file.tensors.size);
 * await file.close();
 * ```
 */
export async function openGguf(location: FileLocation | ByteSource): Promise<GgufFile> {
  const source = isSource(location) ? location : await openFile(location);
  try {
    const header = await parseGrowing(source, 0, "GGUF", (cursor) => readHeader(source.name, cursor));
    const { metadata, infos } = header;
    const alignment = metadata.get(ALIGNMENT_KEY)?.value ?? DEFAULT_ALIGNMENT;
    if (typeof alignment !== "number" || alignment < 1 || alignment > 1 << 20) {
      throw bad(source.name, `an alignment of ${String(alignment)}`);
    }
    const start = Math.ceil(header.end / alignment) * alignment;
    const tensors = new Map<string, StoredTensor>();
    for (const info of infos) tensors.set(info.name, storedTensor(source, start, info));
    const types = new Map(infos.map(({ name, type }) => [name, type.name]));
    return { name: source.name, metadata, tensors, types, close: () => source.close() };
  } catch (error) {
    await source.close();
    throw error;
  }
}

function readHeader(file: string, cursor: Cursor): Header {
  if (cursor.left < 24 || cursor.u32() !== MAGIC) throw cursor.bad("it does not begin as one");
  const version = cursor.u32();
  if (version !== 2 && version !== 3) {
    const big = version > 0xffff;
    throw new TunesmithError(
      "format-unsupported",
      `${file}: GGUF ${big ? "of big-endian machines" : `version ${version}`}`,
      {
        fix: "convert it again with a current llama.cpp",
        details: { file, version },
      },
    );
  }
  const [tensors, entries] = [cursor.u64(), cursor.u64()];
  // An entry takes at least 13 bytes, a tensor 25.
  if (tensors * 25 + entries * 13 > cursor.left)
    throw cursor.bad(`${tensors} tensors and ${entries} entries do not fit`);
  const metadata = new Map<string, GgufValue>();
  for (let i = 0; i < entries; i++) {
    const key = cursor.text(cursor.u64());
    if (metadata.has(key)) throw cursor.bad(`the key ${quote(key)} occurs twice`);
    metadata.set(key, readValue(cursor));
  }
  const infos: TensorInfo[] = [];
  const names = new Set<string>();
  for (let i = 0; i < tensors; i++) {
    const info = readInfo(file, cursor);
    if (names.has(info.name)) throw cursor.bad(`two tensors are named ${quote(info.name)}`);
    names.add(info.name);
    infos.push(info);
  }
  return { metadata, infos, end: cursor.position };
}

function readValue(cursor: Cursor): GgufValue {
  const type = VALUE_TYPES[cursor.u32()];
  if (type === undefined) throw cursor.bad(`an unknown type of entry at ${cursor.position - 4}`);
  if (type !== "array") return { type, value: readScalar(cursor, type) };
  const of = VALUE_TYPES[cursor.u32()];
  const length = cursor.u64();
  if (of === undefined || of === "array") throw cursor.bad(`a list of lists at ${cursor.position}`);
  if (length > cursor.left) throw cursor.bad(`a list of ${length} items does not fit`);
  const value: GgufScalar[] = [];
  for (let i = 0; i < length; i++) value.push(readScalar(cursor, of));
  return { type, of, value };
}

function readScalar(cursor: Cursor, type: Exclude<(typeof VALUE_TYPES)[number], "array">): GgufScalar {
  switch (type) {
    case "uint8":
      return cursor.u8();
    case "int8":
      return cursor.view(1).getInt8(0);
    case "uint16":
      return cursor.u16();
    case "int16":
      return cursor.view(2).getInt16(0, true);
    case "uint32":
      return cursor.u32();
    case "int32":
      return cursor.i32();
    case "float32":
      return cursor.view(4).getFloat32(0, true);
    case "float64":
      return cursor.view(8).getFloat64(0, true);
    case "bool":
      return cursor.u8() !== 0;
    case "string":
      return cursor.text(cursor.u64());
    case "uint64":
      return exact(cursor.view(8).getBigUint64(0, true));
    case "int64":
      return exact(cursor.view(8).getBigInt64(0, true));
  }
}

const exact = (value: bigint): number | bigint =>
  Number.isSafeInteger(Number(value)) ? Number(value) : value;

function readInfo(file: string, cursor: Cursor): TensorInfo {
  const name = cursor.text(cursor.u64());
  const axes = cursor.u32();
  if (axes > 8) throw cursor.bad(`${quote(name)} has ${axes} axes`);
  // The file names the fastest axis first.
  const shape = Array.from({ length: axes }, () => cursor.u64()).reverse();
  const code = cursor.u32();
  const offset = cursor.u64();
  const type = GGML_TYPES[code];
  if (!type) {
    throw new TunesmithError("dtype-unsupported", `${file}: tensor ${quote(name)} is of GGML type ${code}`, {
      fix: "use a file in F16, Q8_0, Q4_0, Q5_0 or one of Q2_K to Q6_K",
      details: { file, name, code },
    });
  }
  return { name, shape, type, offset };
}

function storedTensor(source: ByteSource, start: number, info: TensorInfo): StoredTensor {
  const { name, shape, type } = info;
  const count = elementCount(shape, name);
  if ((shape.at(-1) ?? 1) % type.block !== 0) {
    throw bad(source.name, `rows of ${quote(name)} are no whole blocks of ${type.name}`);
  }
  const byteLength = (count / type.block) * type.bytes;
  const offset = start + info.offset;
  if (offset + byteLength > source.size) throw bad(source.name, `tensor ${quote(name)} is cut off`);
  const { dtype } = type;
  if (dtype) return { dtype, shape, source, offset, byteLength, name };
  const load = async () => {
    const data = dequantise(type.name, await source.read(offset, byteLength), type);
    if (!data) throw bad(source.name, `tensor ${quote(name)} is of type ${type.name}`);
    return { dtype: "float32", shape, data } as const;
  };
  return { dtype: "float32", shape, load };
}

function bad(file: string, why: string): TunesmithError {
  return corrupt(file, `not a readable GGUF file: ${why}`, "copy or download the file again");
}
