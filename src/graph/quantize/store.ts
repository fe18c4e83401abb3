import { type ByteWriter, joinPath, openFile, tempDir, writeFileAtomic } from "#io";
import { bytesOf, type Tensor, type TensorRef } from "../../tensor/index.js";
import { constant } from "../create.js";
import type { Value } from "../types.js";
import { partName, type QuantizedMatrix, quantizeMatrix } from "./matrix.js";
import type { Quantization } from "./settings.js";

/** A weight to be quantised, read when its turn comes. */
export interface PendingMatrix {
  /** Name of the stored weight. */
  readonly name: string;
  readonly rows: number;
  readonly columns: number;
  /** `[rows, columns]`, row-major. */
  load(): Promise<Float32Array>;
}

const ALIGNMENT = 64;

type Place = Omit<TensorRef, "source">;

/**
 * Quantises weights one at a time into a temporary file, which sessions map: memory holds one weight, whatever the size
 * of the model.
 *
 * @returns The weights as constants, in the order given.
 */
export const quantizeMatrices = (
  pending: readonly PendingMatrix[],
  settings: Quantization,
): Promise<QuantizedMatrix<Value>[]> =>
  storeMatrices(
    pending.map(({ name, rows, columns, load }) => ({
      name,
      make: async () => quantizeMatrix(await load(), rows, columns, settings),
    })),
  );

/** A weight that is quantised in a way of its own when its turn comes. */
export interface MatrixInMaking {
  /** Name of the stored weight. */
  readonly name: string;
  make(): Promise<QuantizedMatrix<Tensor>>;
}

/** As `quantizeMatrices`, for weights that are quantised each in a way of its own. */
export async function storeMatrices(pending: readonly MatrixInMaking[]): Promise<QuantizedMatrix<Value>[]> {
  if (pending.length === 0) return [];
  const path = joinPath(await tempDir("tunesmith-quant-", { untilExit: true }), "weights.bin");
  const placed: (Omit<QuantizedMatrix<Tensor>, "parts"> & { readonly places: readonly [string, Place][] })[] =
    [];
  await writeFileAtomic(path, async (writer) => {
    for (const { name, make } of pending) {
      const { parts, ...rest } = await make();
      const places: [string, Place][] = [];
      for (const [part, data] of Object.entries(parts))
        places.push([part, await append(writer, partName(name, part), data)]);
      placed.push({ ...rest, places });
    }
  });
  const source = await openFile(path);
  return placed.map(({ places, ...rest }) => ({
    ...rest,
    parts: Object.fromEntries(
      places.map(([part, place]) => [part, constant({ ...place, source }, place.name)] as const),
    ),
  }));
}

async function append(writer: ByteWriter, name: string, data: Tensor): Promise<Place> {
  const bytes = bytesOf(data);
  const gap = (ALIGNMENT - (writer.position % ALIGNMENT)) % ALIGNMENT;
  if (gap > 0) await writer.write(new Uint8Array(gap));
  const offset = writer.position;
  await writer.write(bytes);
  return { dtype: data.dtype, shape: data.shape, offset, byteLength: bytes.byteLength, name };
}
