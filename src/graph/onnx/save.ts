import { type ByteWriter, basename, dirname, joinPath, sourceChunks, writeFileAtomic } from "#io";
import { bytesOf, isTensorRef, type Tensor, type TensorRef } from "../../tensor/index.js";
import { constantsOf } from "../traverse.js";
import type { Graph, Value } from "../types.js";
import { type EncodeOptions, type ExternalRegion, encodeParts } from "./encode.js";
import { REFERENCE_BYTES } from "./scan.js";

export interface SaveOptions extends Omit<EncodeOptions, "external"> {
  /**
   * Whether large constants go to a weight file next to the model, named `<model>_data`: `auto` (default) when they
   * take more than 1 GiB together (a model file must stay below 2 GiB), `never`, or `always`.
   */
  readonly external?: "auto" | "never" | "always";
}

export interface SavedOnnx {
  /** Every file written, the model first. */
  readonly files: readonly string[];
  /** Bytes of all files. */
  readonly byteLength: number;
}

/** Memory pages of the platforms ONNX Runtime maps weight files on. */
const ALIGNMENT = 4096;
const AUTO_LIMIT = 2 ** 30;

/**
 * Writes the graph as an ONNX model, constants included; those still in other files are copied piece by piece, so
 * memory use does not depend on the size of the model. Both files appear whole or not at all, and saving what was
 * loaded gives the same bytes every time.
 *
 * Throws `file-not-found` and `file-write-failed` from the disk, and what `encodeGraph` throws.
 *
 * @example
 * ```ts
 * import { input, makeGraph, ops, saveOnnx } from "tunesmith/graph";
 * const x = input("x", "float32", ["n", 4]);
 * const { files } = await saveOnnx(makeGraph("double", [x], [["y", ops.mul(x, 2)]]), "double.onnx");
 * console.log(files);
 * ```
 */
export async function saveOnnx(graph: Graph, path: string, options: SaveOptions = {}): Promise<SavedOnnx> {
  const { external = "auto", ...encodeOptions } = options;
  const large = largeConstants(graph);
  const total = large.reduce((sum, [, data]) => sum + lengthOf(data), 0);
  const apart = external === "always" || (external === "auto" && total > AUTO_LIMIT);
  const dataName = `${basename(path)}_data`;
  const plan = apart ? planRegions(large, dataName) : undefined;
  const { parts, byteLength } = encodeParts(graph, { ...encodeOptions, external: plan?.regions });
  const files = [path];
  if (plan && plan.layout.length > 0) {
    const dataPath = joinPath(dirname(path), dataName);
    await writeFileAtomic(dataPath, (writer) => writeData(writer, plan.layout));
    files.push(dataPath);
  }
  await writeFileAtomic(path, async (writer) => {
    for (const part of parts) await writePart(writer, part);
  });
  return { files, byteLength: byteLength + (plan?.byteLength ?? 0) };
}

type Data = Tensor | TensorRef;

const lengthOf = (data: Data) => (isTensorRef(data) ? data.byteLength : bytesOf(data).byteLength);

function largeConstants(graph: Graph): [Value, Data][] {
  return constantsOf(graph).flatMap((value): [Value, Data][] => {
    if (value.source.kind !== "constant" || value.dtype === "string") return [];
    return lengthOf(value.source.data) >= REFERENCE_BYTES ? [[value, value.source.data]] : [];
  });
}

interface Plan {
  readonly regions: ReadonlyMap<Value, ExternalRegion>;
  readonly layout: readonly { readonly data: Data; readonly offset: number }[];
  readonly byteLength: number;
}

/** Constants one after the other, each at a page; one that two values share is written once. */
function planRegions(large: readonly [Value, Data][], location: string): Plan {
  const regions = new Map<Value, ExternalRegion>();
  const placed = new Map<Data, ExternalRegion>();
  const layout: { data: Data; offset: number }[] = [];
  let end = 0;
  for (const [value, data] of large) {
    let region = placed.get(data);
    if (!region) {
      region = { location, offset: Math.ceil(end / ALIGNMENT) * ALIGNMENT, length: lengthOf(data) };
      placed.set(data, region);
      layout.push({ data, offset: region.offset });
      end = region.offset + region.length;
    }
    regions.set(value, region);
  }
  return { regions, layout, byteLength: end };
}

async function writeData(writer: ByteWriter, layout: Plan["layout"]): Promise<void> {
  for (const { data, offset } of layout) {
    if (offset > writer.position) await writer.write(new Uint8Array(offset - writer.position));
    await writePart(writer, isTensorRef(data) ? data : bytesOf(data));
  }
}

async function writePart(writer: ByteWriter, part: Uint8Array | TensorRef): Promise<void> {
  if (part instanceof Uint8Array) return writer.write(part);
  for await (const chunk of sourceChunks(part.source, part.offset, part.byteLength))
    await writer.write(chunk);
}
