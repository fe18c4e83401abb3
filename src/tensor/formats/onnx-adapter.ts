import { Builder } from "flatbuffers";
import { type ByteSource, type FileLocation, openFile, writeFileAtomic } from "#io";
import { TunesmithError } from "../../errors/index.js";
import { byteLengthOf, dtypeFromOnnx, dtypeToOnnx } from "../dtype.js";
import type { TensorRef } from "../ref.js";
import { corrupt, quote } from "../safetensors/header.js";
import { isSource } from "../safetensors/reader.js";
import { bytesOf, elementCount, type Tensor } from "../tensor.js";
import { type Cursor, cursorOf } from "./cursor.js";
import type { TensorContainer } from "./stored.js";

const IDENTIFIER = "TORT";
const FORMAT_VERSION = 1;
/** ONNX Runtime maps the file and uses the values where they lie. */
const DATA_ALIGNMENT = 8;
/** Fields of the schema's tables, by their place. */
const ADAPTER = { formatVersion: 0, adapterVersion: 1, modelVersion: 2, parameters: 3 } as const;
const PARAMETER = { name: 0, dims: 1, dataType: 2, rawData: 3 } as const;

/** An open `.onnx_adapter` file. */
export interface OnnxAdapterFile extends TensorContainer {
  readonly tensors: ReadonlyMap<string, TensorRef>;
  /** The author's numbers; ONNX Runtime does not look at them. */
  readonly adapterVersion: number;
  readonly modelVersion: number;
}

/**
 * Opens an adapter of ONNX Runtime (`.onnx_adapter`, a FlatBuffers file): values for graph inputs of the same names, which
 * ONNX Runtime's `LoraAdapter` puts in when a run names the adapter.
 *
 * Throws `file-corrupt`, `format-unsupported` (a newer format), `dtype-unsupported`.
 *
 * @param location A path, URL, `Blob`, or an open source (which `close()` then closes).
 * @example
 * ```ts
 * import { openOnnxAdapter } from "tunesmith/tensor";
 * const file = await openOnnxAdapter("style.onnx_adapter");
 * console.log([...file.tensors.keys()]);
 * await file.close();
 * ```
 */
export async function openOnnxAdapter(location: FileLocation | ByteSource): Promise<OnnxAdapterFile> {
  const source = isSource(location) ? location : await openFile(location);
  try {
    const head = source.size >= 16 ? await cursorAt(source, 0, 8) : undefined;
    const root = head?.u32() ?? 0;
    if (head?.text(4) !== IDENTIFIER) throw bad(source, `the mark ${IDENTIFIER} is missing`);
    const adapter = await openTable(source, root);
    const version = await intField(adapter, ADAPTER.formatVersion);
    if (version !== FORMAT_VERSION) {
      throw new TunesmithError(
        "format-unsupported",
        `${source.name}: version ${version} of the adapter format`,
        {
          fix: `write it in version ${FORMAT_VERSION}`,
          details: { file: source.name, version },
        },
      );
    }
    const adapterVersion = await intField(adapter, ADAPTER.adapterVersion);
    const modelVersion = await intField(adapter, ADAPTER.modelVersion);
    const tensors = await readParameters(adapter);
    return { name: source.name, tensors, adapterVersion, modelVersion, close: () => source.close() };
  } catch (error) {
    await source.close();
    throw error;
  }
}

/** A FlatBuffers table: where it is, and where its fields are relative to it (0: absent). */
interface Table {
  readonly source: ByteSource;
  readonly at: number;
  readonly fields: readonly number[];
}

async function cursorAt(source: ByteSource, at: number, length: number): Promise<Cursor> {
  return cursorOf(await source.read(at, length), source.name, "onnx_adapter");
}

async function openTable(source: ByteSource, at: number): Promise<Table> {
  const vtable = at - (await cursorAt(source, at, 4)).i32();
  const size = (await cursorAt(source, vtable, 4)).u16();
  if (size < 4 || size % 2 !== 0 || size > 64) throw bad(source, `a table of ${size} bytes at ${vtable}`);
  const fields = await cursorAt(source, vtable, size);
  fields.take(4);
  return { source, at, fields: Array.from({ length: (size - 4) / 2 }, () => fields.u16()) };
}

function fieldAt(table: Table, field: number): number | undefined {
  const offset = table.fields[field] ?? 0;
  return offset === 0 ? undefined : table.at + offset;
}

async function intField(table: Table, field: number): Promise<number> {
  const at = fieldAt(table, field);
  return at === undefined ? 0 : (await cursorAt(table.source, at, 4)).i32();
}

/** Place and length of a vector or string; undefined when the field is absent. Checked against the file. */
async function vectorField(
  table: Table,
  field: number,
  width: number,
): Promise<{ at: number; length: number } | undefined> {
  const { source } = table;
  const at = fieldAt(table, field);
  if (at === undefined) return undefined;
  const start = at + (await cursorAt(source, at, 4)).u32();
  const length = (await cursorAt(source, start, 4)).u32();
  if (start + 4 + length * width > source.size)
    throw bad(source, `a list of ${length} items at ${start} is cut off`);
  return { at: start + 4, length };
}

async function readParameters(adapter: Table): Promise<Map<string, TensorRef>> {
  const { source } = adapter;
  const list = await vectorField(adapter, ADAPTER.parameters, 4);
  const tensors = new Map<string, TensorRef>();
  for (let i = 0; i < (list?.length ?? 0); i++) {
    const at = (list?.at ?? 0) + 4 * i;
    const parameter = await openTable(source, at + (await cursorAt(source, at, 4)).u32());
    const ref = await readParameter(parameter);
    if (tensors.has(ref.name)) throw bad(source, `two parameters are named ${quote(ref.name)}`);
    tensors.set(ref.name, ref);
  }
  return tensors;
}

async function readParameter(table: Table): Promise<TensorRef> {
  const { source } = table;
  const text = await vectorField(table, PARAMETER.name, 1);
  if (!text) throw bad(source, "a parameter without a name");
  const name = (await cursorAt(source, text.at, text.length)).text(text.length);
  const dims = await vectorField(table, PARAMETER.dims, 8);
  if ((dims?.length ?? 0) > 32) throw bad(source, `${quote(name)} has ${dims?.length} axes`);
  const lengths = await cursorAt(source, dims?.at ?? 0, 8 * (dims?.length ?? 0));
  const shape = Array.from({ length: dims?.length ?? 0 }, () => lengths.u64());
  const dtype = dtypeFromOnnx(await intField(table, PARAMETER.dataType));
  const byteLength = byteLengthOf(dtype, elementCount(shape, name));
  const raw = await vectorField(table, PARAMETER.rawData, 1);
  if ((raw?.length ?? 0) !== byteLength) {
    throw bad(source, `${quote(name)} has ${raw?.length ?? 0} bytes instead of ${byteLength}`);
  }
  return { name, dtype, shape, source, offset: raw?.at ?? 0, byteLength };
}

export interface OnnxAdapterOptions {
  /** Your number for the adapter, an int32. Default 1. */
  readonly adapterVersion?: number;
  /** Your number for the model it belongs to, an int32. Default 1. */
  readonly modelVersion?: number;
}

/**
 * The bytes of an `.onnx_adapter` file. The names are those of the graph inputs that the values are for.
 *
 * Throws `name-conflict` for a name twice, `dtype-unsupported` for strings and 4-bit types, `shape-mismatch` for scalars, which ONNX
 * Runtime refuses.
 *
 * @example
 * ```ts
 * import { encodeOnnxAdapter, tensor } from "tunesmith/tensor";
 * const bytes = encodeOnnxAdapter([["layer.0.lora_A", tensor("float32", [1, 2], [1, 2])]], { adapterVersion: 2 });
 * ```
 */
export function encodeOnnxAdapter(
  tensors: Iterable<readonly [string, Tensor]>,
  options: OnnxAdapterOptions = {},
): Uint8Array {
  const named = [...tensors];
  const builder = new Builder(1024 + named.reduce((sum, [, value]) => sum + byteLength(value) + 128, 0));
  const seen = new Set<string>();
  const parameters = named.map(([name, value]) => {
    if (seen.has(name)) {
      throw new TunesmithError(
        "name-conflict",
        `an adapter cannot hold two parameters named ${quote(name)}`,
        {
          fix: "give every tensor its own name",
        },
      );
    }
    seen.add(name);
    return writeParameter(builder, name, value);
  });
  builder.startVector(4, parameters.length, 4);
  for (const offset of [...parameters].reverse()) builder.addOffset(offset);
  const list = builder.endVector();
  builder.startObject(4);
  builder.addFieldInt32(ADAPTER.formatVersion, FORMAT_VERSION, 0);
  builder.addFieldInt32(ADAPTER.adapterVersion, options.adapterVersion ?? 1, 0);
  builder.addFieldInt32(ADAPTER.modelVersion, options.modelVersion ?? 1, 0);
  builder.addFieldOffset(ADAPTER.parameters, list, 0);
  builder.finish(builder.endObject(), IDENTIFIER);
  return builder.asUint8Array();
}

/** Writes an `.onnx_adapter` file atomically. Throws as `encodeOnnxAdapter` and `writeFileAtomic`. */
export async function writeOnnxAdapter(
  path: string,
  tensors: Iterable<readonly [string, Tensor]>,
  options: OnnxAdapterOptions = {},
): Promise<void> {
  await writeFileAtomic(path, encodeOnnxAdapter(tensors, options));
}

function byteLength({ dtype, shape }: Tensor): number {
  return byteLengthOf(dtype, elementCount(shape));
}

function writeParameter(builder: Builder, name: string, value: Tensor): number {
  if (value.shape.length === 0) {
    throw new TunesmithError(
      "shape-mismatch",
      `parameter ${quote(name)}: ONNX Runtime takes no scalars in an adapter`,
      {
        fix: "give it shape [1]",
        details: { name },
      },
    );
  }
  if (value.dtype === "int4" || value.dtype === "uint4") {
    throw new TunesmithError(
      "dtype-unsupported",
      `parameter ${quote(name)}: an adapter cannot hold ${value.dtype}`,
      {
        fix: "cast it to float32 or float16",
        details: { name, dtype: value.dtype },
      },
    );
  }
  const bytes = bytesOf(value);
  builder.prep(DATA_ALIGNMENT, bytes.byteLength);
  const raw = builder.createByteVector(bytes);
  builder.startVector(8, value.shape.length, 8);
  for (const length of [...value.shape].reverse()) builder.addInt64(BigInt(length));
  const dims = builder.endVector();
  const text = builder.createString(name);
  builder.startObject(4);
  builder.addFieldOffset(PARAMETER.name, text, 0);
  builder.addFieldOffset(PARAMETER.dims, dims, 0);
  builder.addFieldInt32(PARAMETER.dataType, dtypeToOnnx(value.dtype), 0);
  builder.addFieldOffset(PARAMETER.rawData, raw, 0);
  return builder.endObject();
}

function bad(source: ByteSource, why: string): TunesmithError {
  return corrupt(
    source.name,
    `not a readable adapter of ONNX Runtime: ${why}`,
    "copy or write the file again",
  );
}
