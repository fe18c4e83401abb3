import { TunesmithError } from "../../errors/index.js";
import type { ByteSource } from "../../io/types.js";
import type { RawRecord } from "./records.js";

/** Loaded on demand: most programs read no Parquet, and its decompressors are large. */
const library = async () => {
  const [parquet, { compressors }] = await Promise.all([
    import("hyparquet"),
    import("hyparquet-compressors"),
  ]);
  return { ...parquet, compressors };
};

/** Rows of a Parquet file, a row group at a time. Throws `file-corrupt` for a file that is none or is damaged. */
export async function* parquetBatches(source: ByteSource): AsyncGenerator<readonly RawRecord[]> {
  const { parquetMetadataAsync, parquetReadObjects, compressors } = await library();
  const file = {
    byteLength: source.size,
    async slice(start: number, end = source.size): Promise<ArrayBuffer> {
      const bytes = await source.read(start, end - start);
      // A copy: hyparquet wants a buffer of its own.
      return bytes.slice().buffer as ArrayBuffer;
    },
  };
  const checked = <T>(work: Promise<T>): Promise<T> =>
    work.catch((cause: unknown) => {
      if (cause instanceof TunesmithError) throw cause;
      throw new TunesmithError(
        "file-corrupt",
        `${source.name} cannot be read as Parquet: ${(cause as Error).message}`,
        { fix: "copy or download the file again; encrypted files are not read", cause },
      );
    });
  const metadata = await checked(parquetMetadataAsync(file));
  let start = 0;
  for (const group of metadata.row_groups) {
    const end = start + Number(group.num_rows);
    const rows = await checked(
      // Only columns that are marked as text are text; image bytes stay bytes.
      parquetReadObjects({ file, metadata, rowStart: start, rowEnd: end, compressors, utf8: false }),
    );
    const from = start;
    yield rows.map((value, index) => ({ row: from + index + 1, value }));
    start = end;
  }
}
