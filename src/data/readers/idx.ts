import { TunesmithError } from "../../errors/index.js";
import { type Dtype, dtypeInfo, elementCount, fromBytes, type Tensor } from "../../tensor/index.js";
import { type DataFile, nameOf, readUnpacked } from "./bytes.js";

/** The types of the format's third byte. */
const TYPES: Readonly<Record<number, Dtype>> = {
  8: "uint8",
  9: "int8",
  11: "int16",
  12: "int32",
  13: "float32",
  14: "float64",
};

/**
 * Reads an IDX file, the format of MNIST and its relatives; a packed one (`.gz`) too. Throws `file-corrupt`.
 *
 * @returns For example `[10000, 28, 28]` uint8 for images, `[10000]` uint8 for labels.
 *
 * @example
 * ```ts
 * import { readIdx } from "tunesmith/data";
 * const images = await readIdx("t10k-images-idx3-ubyte.gz");
 * console.log(images.shape); // [10000, 28, 28]
 * ```
 */
export async function readIdx(file: DataFile): Promise<Tensor> {
  const bytes = await readUnpacked(file);
  const corrupt = (what: string) =>
    new TunesmithError("file-corrupt", `${nameOf(file)}: ${what}`, {
      fix: "copy or download the file again",
    });
  const dtype = TYPES[bytes[2] ?? 0];
  const rank = bytes[3] ?? 0;
  const start = 4 + 4 * rank;
  if (bytes[0] !== 0 || bytes[1] !== 0 || !dtype || rank === 0 || bytes.length < start) {
    throw corrupt("is no IDX file");
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const shape = Array.from({ length: rank }, (_, axis) => view.getUint32(4 + 4 * axis));
  const { bits } = dtypeInfo(dtype);
  const width = bits / 8;
  if (elementCount(shape, nameOf(file)) * width !== bytes.length - start) {
    throw corrupt(`its header says [${shape.join(", ")}] ${dtype}, and ${bytes.length - start} bytes follow`);
  }
  // The format is big-endian; a copy also aligns the elements.
  const data = bytes.slice(start);
  if (width > 1) {
    for (let at = 0; at < data.length; at += width) data.subarray(at, at + width).reverse();
  }
  return fromBytes(dtype, shape, data);
}
