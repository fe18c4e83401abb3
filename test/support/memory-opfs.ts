/** An origin private file system in memory, with the error names of the standard, for tests outside a browser. */
export function memoryStorage(): { getDirectory(): Promise<MemoryDirectory> } {
  const root = new MemoryDirectory("");
  return { getDirectory: async () => root };
}

class MemoryFile {
  readonly kind = "file";
  content = new Blob([]);
  constructor(readonly name: string) {}

  async getFile(): Promise<File> {
    return new File([this.content], this.name);
  }

  async createWritable({ keepExistingData = false } = {}) {
    let draft = keepExistingData ? this.content : new Blob([]);
    return {
      write: async (chunk: Uint8Array<ArrayBuffer> | { position: number; data: string }) => {
        draft =
          chunk instanceof Uint8Array
            ? new Blob([draft, chunk])
            : new Blob([draft.slice(0, chunk.position), chunk.data]);
      },
      close: async () => {
        this.content = draft;
      },
      abort: async () => {},
    };
  }
}

class MemoryDirectory {
  readonly kind = "directory";
  readonly children = new Map<string, MemoryFile | MemoryDirectory>();
  constructor(readonly name: string) {}

  async *keys() {
    yield* this.children.keys();
  }

  async getFileHandle(name: string, { create = false } = {}): Promise<MemoryFile> {
    const found = this.children.get(name);
    if (found instanceof MemoryDirectory) throw new DOMException("is a folder", "TypeMismatchError");
    if (found === undefined && !create) throw new DOMException("not found", "NotFoundError");
    const file = found ?? new MemoryFile(name);
    this.children.set(name, file);
    return file;
  }

  async getDirectoryHandle(name: string, { create = false } = {}): Promise<MemoryDirectory> {
    const found = this.children.get(name);
    if (found instanceof MemoryFile) throw new DOMException("is a file", "TypeMismatchError");
    if (found === undefined && !create) throw new DOMException("not found", "NotFoundError");
    const folder = found ?? new MemoryDirectory(name);
    this.children.set(name, folder);
    return folder;
  }

  async removeEntry(name: string): Promise<void> {
    if (!this.children.delete(name)) throw new DOMException("not found", "NotFoundError");
  }
}

/** Web Locks in memory, as far as `ifAvailable` goes. */
export function memoryLocks() {
  const held = new Set<string>();
  return {
    async request(name: string, _how: object, work: (lock: object | null) => Promise<void> | void) {
      if (held.has(name)) return work(null);
      held.add(name);
      try {
        return await work({ name });
      } finally {
        held.delete(name);
      }
    },
  };
}
