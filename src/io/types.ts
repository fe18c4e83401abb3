/**
 * A random-access source of bytes: a file, a `Blob`, a URL that answers range requests, or memory.
 * `path` is set when the bytes are a local file that other libraries may map by name.
 */
export interface ByteSource {
  readonly name: string;
  readonly size: number;
  readonly path?: string;
  /**
   * Reads exactly `length` bytes at `offset`; throws `file-corrupt` when the source is shorter. The result may be
   * a view on memory that the source keeps, so it is for reading only.
   */
  read(offset: number, length: number): Promise<Uint8Array>;
  close(): Promise<void>;
}

/** What `openFile` opens: a path (in the browser a path in the origin private file system), an URL, or a `Blob`. */
export type FileLocation = string | URL | Blob;

/** Bytes in one piece or in several. */
export type ByteChunks = Uint8Array | Iterable<Uint8Array> | AsyncIterable<Uint8Array>;

/** Sequential output of `writeFileAtomic`. `position` counts the bytes written so far. */
export interface ByteWriter {
  readonly position: number;
  write(bytes: Uint8Array): Promise<void>;
}

/** What `writeFileAtomic` writes; a string is written as UTF-8. */
export type FileContent = string | ByteChunks | ((writer: ByteWriter) => Promise<void>);

export interface FileStat {
  /** Bytes; 0 for a folder. */
  readonly size: number;
  readonly isDirectory: boolean;
  /** Last modification, in milliseconds since 1970; 0 for a folder in the browser. */
  readonly modified: number;
}

export interface TempDirOptions {
  /**
   * The folder goes with the process: when it exits, or, when it was killed, as soon as another asks for such a folder.
   * Node only: a page cannot know when it is left. Default false: the caller removes it.
   */
  readonly untilExit?: boolean;
}

/** Gives a lock back. */
export type Release = () => Promise<void>;

/** Temporary storage outside memory, gone after `close()`. */
export interface Scratch {
  write(offset: number, bytes: Uint8Array): Promise<void>;
  /** What was written: `offset` must be where a write began, and that write at least `length` long. */
  read(offset: number, length: number): Promise<Uint8Array>;
  close(): Promise<void>;
}

/** The functions that `#io` offers on every platform; node.ts and browser.ts both export exactly these. */
export interface Io {
  openFile(location: FileLocation): Promise<ByteSource>;
  openBytes(bytes: Uint8Array, name: string): ByteSource;
  sourceChunks(
    source: ByteSource,
    offset?: number,
    length?: number,
    chunkBytes?: number,
  ): AsyncGenerator<Uint8Array>;
  readFile(path: string): Promise<Uint8Array>;
  readText(path: string): Promise<string>;
  fileExists(path: string): Promise<boolean>;
  stat(path: string): Promise<FileStat>;
  listDir(path: string): Promise<string[]>;
  makeDir(path: string): Promise<void>;
  remove(path: string): Promise<void>;
  writeFileAtomic(path: string, content: FileContent): Promise<void>;
  appendText(path: string, text: string): Promise<void>;
  appendBytes(path: string, chunks: ByteChunks): Promise<void>;
  copyFile(from: string, to: string): Promise<void>;
  tempDir(prefix?: string, options?: TempDirOptions): Promise<string>;
  openScratch(): Promise<Scratch>;
  holdLock(folder: string): Promise<Release>;
  fileBlob(path: string): Promise<Blob>;
  spaceLeft(path: string): Promise<number>;
  cacheDir(): string;
  assetFolder(url: URL, names: readonly string[]): Promise<string>;
  joinPath(...parts: string[]): string;
  dirname(path: string): string;
  basename(path: string, suffix?: string): string;
  resolvePath(...parts: string[]): string;
  realPath(path: string): Promise<string>;
  env(name: string): string | undefined;
  sha256(chunks: ByteChunks): Promise<string>;
  cpuCount(): number;
}
