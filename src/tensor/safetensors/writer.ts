import { type ByteWriter, sourceChunks, writeFileAtomic } from "#io";
import { TunesmithError } from "../../errors/index.js";
import { arrayLengthOf, byteLengthOf, type Dtype, dtypeInfo } from "../dtype.js";
import { isTensorRef, type TensorRef } from "../ref.js";
import { bytesOf, elementCount, type Tensor } from "../tensor.js";
import { MAX_HEADER_BYTES, quote } from "./header.js";

/** A tensor that is computed when its turn comes to be written, so that a result need not fit into memory. */
export interface LazyTensor {
  readonly dtype: Dtype;
  readonly shape: readonly number[];
  load(): Promise<Tensor>;
}

/** What can be written: values in memory, a part of another file (copied piece by piece), or a computation. */
export type WritableTensor = Tensor | TensorRef | LazyTensor;

export interface SafetensorsOptions {
  /** Strings for the `__metadata__` entry, e.g. `{ format: "pt" }`; none by default. */
  readonly metadata?: Readonly<Record<string, string>> | ReadonlyMap<string, string>;
}

/** The order of the reference implementation's types, in which it sorts tensors (descending). */
const typeOrder = ["BOOL", "U8", "I8", "I16", "U16", "F16", "BF16", "I32", "U32", "F32", "F64", "I64", "U64"];

/** Everything about a file to be written but its values. */
interface SafetensorsPlan<T extends WritableTensor> {
  /** Length word and header, padded with spaces to a multiple of 8 bytes. */
  readonly head: Uint8Array;
  /** In the order of the data. */
  readonly tensors: readonly (readonly [string, T])[];
  readonly byteLength: number;
}

/**
 * Writes a safetensors file atomically. Tensors follow one another by element type, widest first, then by name, as
 * the reference implementation orders them: the same tensors give the same bytes, whatever their order here.
 *
 * Throws `name-conflict` (a name twice, or `__metadata__`), `dtype-unsupported` (strings and 4-bit types, which the
 * format lacks), `shape-mismatch` (data that does not fill its shape), and what `writeFileAtomic` throws.
 *
 * @returns The size of the file in bytes.
 * @example
 * ```ts
 * import { tensor, writeSafetensors } from "tunesmith/tensor";
 * await writeSafetensors("adapter.safetensors", [["bias", tensor("float32", [2], [0, 1])]], {
 *   metadata: { format: "pt" },
 * });
 * ```
 */
export async function writeSafetensors(
  path: string,
  tensors: Iterable<readonly [string, WritableTensor]>,
  options: SafetensorsOptions = {},
): Promise<number> {
  const plan = planSafetensors(tensors, options);
  await writeFileAtomic(path, (writer) => writePlan(plan, writer));
  return plan.byteLength;
}

/** The bytes of a safetensors file, in memory. Throws as `writeSafetensors`. */
export function encodeSafetensors(
  tensors: Iterable<readonly [string, Tensor]>,
  options: SafetensorsOptions = {},
): Uint8Array {
  const plan = planSafetensors(tensors, options);
  const bytes = new Uint8Array(plan.byteLength);
  bytes.set(plan.head);
  let position = plan.head.byteLength;
  for (const [, value] of plan.tensors) {
    const part = bytesOf(value);
    bytes.set(part, position);
    position += part.byteLength;
  }
  return bytes;
}

/** Checks the tensors, sorts them, and lays out the file. */
function planSafetensors<T extends WritableTensor>(
  tensors: Iterable<readonly [string, T]>,
  options: SafetensorsOptions,
): SafetensorsPlan<T> {
  const seen = new Set<string>();
  const ranked = [...tensors].map(([name, value]) => {
    checkName(name, seen);
    return { name, value, rank: typeRank(name, value.dtype), length: writtenLength(name, value) };
  });
  ranked.sort((a, b) => b.rank - a.rank || compareNames(a.name, b.name));
  const metadata = metadataPairs(options.metadata);
  const fields = metadata.length > 0 ? [`"__metadata__":${jsonObject(metadata)}`] : [];
  let position = 0;
  for (const { name, value, length } of ranked) {
    const entry = {
      dtype: dtypeInfo(value.dtype).safetensors,
      shape: value.shape,
      data_offsets: [position, position + length],
    };
    fields.push(`${JSON.stringify(name)}:${JSON.stringify(entry)}`);
    position += length;
  }
  const head = encodeHead(`{${fields.join(",")}}`);
  return {
    head,
    tensors: ranked.map(({ name, value }) => [name, value]),
    byteLength: head.byteLength + position,
  };
}

/** Writes a laid-out file, one tensor after the other. */
async function writePlan(plan: SafetensorsPlan<WritableTensor>, writer: ByteWriter): Promise<void> {
  await writer.write(plan.head);
  for (const [name, value] of plan.tensors) {
    if (isTensorRef(value as Tensor | TensorRef)) {
      const { source, offset, byteLength } = value as TensorRef;
      for await (const chunk of sourceChunks(source, offset, byteLength)) await writer.write(chunk);
    } else await writer.write(bytesOf(await loaded(name, value as Tensor | LazyTensor)));
  }
}

async function loaded(name: string, value: Tensor | LazyTensor): Promise<Tensor> {
  if (!("load" in value)) return value;
  const tensor = await value.load();
  const announced = `${value.dtype} [${value.shape.join(", ")}]`;
  const found = `${tensor.dtype} [${tensor.shape.join(", ")}]`;
  if (announced === found && writtenLength(name, tensor) >= 0) return tensor;
  throw new TunesmithError(
    "shape-mismatch",
    `tensor ${quote(name)} was announced as ${announced}, but is ${found}`,
    {
      fix: "announce the shape and type that load() returns",
      details: { name, announced, found },
    },
  );
}

function encodeHead(json: string): Uint8Array {
  const text = new TextEncoder().encode(json);
  if (text.byteLength > MAX_HEADER_BYTES) {
    throw new TunesmithError(
      "format-unsupported",
      `the header takes ${text.byteLength} bytes; readers refuse more than ${MAX_HEADER_BYTES}`,
      {
        fix: "write fewer tensors per file, or less metadata",
      },
    );
  }
  const length = Math.ceil(text.byteLength / 8) * 8;
  const head = new Uint8Array(8 + length).fill(0x20);
  new DataView(head.buffer).setBigUint64(0, BigInt(length), true);
  head.set(text, 8);
  return head;
}

function typeRank(name: string, dtype: Dtype): number {
  const rank = typeOrder.indexOf(dtypeInfo(dtype).safetensors ?? "");
  if (rank >= 0) return rank;
  throw new TunesmithError(
    "dtype-unsupported",
    `tensor ${quote(name)}: safetensors has no type for ${dtype}`,
    {
      fix:
        dtype === "string"
          ? "store strings elsewhere"
          : "store the packed bytes as uint8, with their shape in the metadata",
      details: { name, dtype },
    },
  );
}

/** Bytes the tensor takes in the file, after a check that its data fills its shape. */
function writtenLength(name: string, value: WritableTensor): number {
  const count = elementCount(value.shape, name);
  const wanted = byteLengthOf(value.dtype, count);
  const fills =
    "data" in value
      ? value.data.length === arrayLengthOf(value.dtype, count)
      : !("byteLength" in value) || value.byteLength === wanted;
  if (fills) return wanted;
  throw new TunesmithError(
    "shape-mismatch",
    `tensor ${quote(name)}: its data does not fill ${value.dtype} [${value.shape.join(", ")}]`,
    { fix: "build the tensor with tensor(), which checks this", details: { name, shape: value.shape } },
  );
}

function checkName(name: string, seen: Set<string>): void {
  const twice = seen.has(name);
  seen.add(name);
  if (!twice && name !== "__metadata__" && !/\p{Surrogate}/u.test(name)) return;
  throw new TunesmithError(
    "name-conflict",
    `a safetensors file cannot hold ${twice ? "two tensors" : "a tensor"} named ${quote(name)}`,
    {
      fix: "give every tensor its own name, of valid Unicode, other than __metadata__",
      details: { name },
    },
  );
}

function metadataPairs(metadata: SafetensorsOptions["metadata"]): [string, string][] {
  const pairs = metadata instanceof Map ? [...metadata] : Object.entries(metadata ?? {});
  return (pairs as [string, string][]).sort(([a], [b]) => compareNames(a, b));
}

function jsonObject(pairs: readonly (readonly [string, string])[]): string {
  return `{${pairs.map(([key, value]) => `${JSON.stringify(key)}:${JSON.stringify(value)}`).join(",")}}`;
}

/** By code point, which is the order of the UTF-8 bytes; `<` compares UTF-16 units. */
export function compareNames(a: string, b: string): number {
  let i = 0;
  while (i < a.length && a[i] === b[i]) i++;
  // A difference in a low surrogate is one of the code point that it ends.
  if (i > 0 && isLow(a, i) && isLow(b, i)) i--;
  return (a.codePointAt(i) ?? -1) - (b.codePointAt(i) ?? -1);
}

function isLow(text: string, index: number): boolean {
  const unit = text.charCodeAt(index);
  return unit >= 0xdc00 && unit <= 0xdfff;
}
