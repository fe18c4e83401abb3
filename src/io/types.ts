/**
 * A random-access source of bytes: a file, a `Blob`, a URL that answers range requests, or memory.
 * `path` is set when the bytes are a local file that other libraries may map by name.
 */
export interface ByteSource {
  readonly name: string;
  readonly size: number;
  readonly path?: string;
  /** Reads exactly `length` bytes at `offset`; throws `file-corrupt` when the source is shorter. */
  read(offset: number, length: number): Promise<Uint8Array>;
  close(): Promise<void>;
}
