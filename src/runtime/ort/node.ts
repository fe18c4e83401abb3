import { closeSync, openSync, writeSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { Worker } from "node:worker_threads";
import * as ort from "onnxruntime-node";
import { tempDir } from "#io";
import { TunesmithError } from "../../errors/index.js";
import { bytesOf, type Tensor, type TensorRef } from "../../tensor/index.js";
import { fromParts, type OrtTensorParts, ortError, toParts } from "./convert.js";
import type { Backend, ExternalLocation, RawSession, SessionOptions, TensorMap } from "./types.js";
import { type WorkerClient, workerClient } from "./worker-client.js";

export const defaultBackend: Backend = "cpu";
export const workerByDefault = true;

/** Bytes of memory that the process holds. */
export const processMemory = (): number | undefined => process.memoryUsage.rss();

/** Below this a constant travels inside the model bytes. */
const INLINE_BYTES = 16 * 1024;
const ALIGNMENT = 4096;

interface Region {
  readonly offset: number;
  readonly size: number;
}
interface Store {
  readonly path: string;
  readonly fd: number;
  end: number;
  free: readonly Region[];
}
let opening: Promise<Store> | undefined;
const placed = new WeakMap<object, ExternalLocation>();

/** A session holds its graph, and so its constants: an array that nobody can reach is mapped by no session that can run. */
const forgotten = new FinalizationRegistry<{ store: Store; region: Region }>(({ store, region }) =>
  giveBack(store, region),
);

/**
 * Files are named relative to the root folder, which is given to ONNX Runtime as the place of external data: so any
 * file of the user's can be mapped where it lies. Constants that live only in memory go once to a temporary file.
 */
export async function place(data: Tensor | TensorRef): Promise<ExternalLocation | undefined> {
  if ("source" in data) {
    if (!data.source.path) return undefined;
    return { location: data.source.path.replace(/^\/+/, ""), offset: data.offset, length: data.byteLength };
  }
  const bytes = bytesOf(data);
  if (bytes.byteLength < INLINE_BYTES) return undefined;
  const known = placed.get(data.data);
  if (known) return known;
  const store = await openStore();
  const meanwhile = placed.get(data.data);
  if (meanwhile) return meanwhile;
  const location = write(store, bytes, data.data);
  placed.set(data.data, location);
  return location;
}

function write(store: Store, bytes: Uint8Array, owner: object): ExternalLocation {
  const region = take(store, Math.ceil(bytes.byteLength / ALIGNMENT) * ALIGNMENT);
  try {
    for (let done = 0; done < bytes.byteLength; ) {
      done += writeSync(store.fd, bytes, done, bytes.byteLength - done, region.offset + done);
    }
  } catch (error) {
    giveBack(store, region);
    throw new TunesmithError(
      "file-write-failed",
      `${store.path}: ${bytes.byteLength} bytes could not be written`,
      {
        fix: "free space in the temporary folder, or set TMPDIR to another",
        cause: error,
      },
    );
  }
  forgotten.register(owner, { store, region });
  return { location: store.path.replace(/^\/+/, ""), offset: region.offset, length: bytes.byteLength };
}

/** The first free region that is large enough, or the end of the file. */
function take(store: Store, size: number): Region {
  const { free, end } = store;
  const at = free.findIndex((region) => region.size >= size);
  const found = free[at];
  if (!found) {
    store.end = end + size;
    return { offset: end, size };
  }
  const rest = { offset: found.offset + size, size: found.size - size };
  store.free = free.toSpliced(at, 1, ...(rest.size > 0 ? [rest] : []));
  return { offset: found.offset, size };
}

/** Frees a region, joined with free neighbours. */
function giveBack(store: Store, region: Region): void {
  const joined: Region[] = [];
  for (const next of [...store.free, region].sort((a, b) => a.offset - b.offset)) {
    const last = joined.at(-1);
    if (last && last.offset + last.size === next.offset)
      joined.splice(-1, 1, { offset: last.offset, size: last.size + next.size });
    else joined.push(next);
  }
  store.free = joined;
}

function openStore(): Promise<Store> {
  opening ??= tempDir("tunesmith-", { untilExit: true }).then((folder) => {
    const path = join(folder, "weights.data");
    const fd = openSync(path, "w");
    process.prependOnceListener("exit", () => closeSync(fd));
    return { path, fd, end: 0, free: [] };
  });
  return opening;
}

/** Options as measured best for training (docs/engine.md): no spinning, no memory pattern; prepacking as asked. */
function nativeOptions(options: SessionOptions): ort.InferenceSession.SessionOptions {
  return {
    executionProviders: [options.backend === "webgpu" ? "webgpu" : "cpu"],
    intraOpNumThreads: options.threads ?? availableParallelism(),
    graphOptimizationLevel: options.optimization ?? "all",
    enableMemPattern: false,
    enableCpuMemArena: options.arena ?? true,
    logSeverityLevel: 3,
    ...(options.profile ? { enableProfiling: true, profileFilePrefix: options.profile } : {}),
    extra: {
      session: {
        disable_prepacking: options.prepack ? "0" : "1",
        model_external_initializers_file_folder_path: "/",
        intra_op: { allow_spinning: options.spin ? "1" : "0" },
      },
      ...options.config,
    },
  };
}

export async function load(
  model: Uint8Array,
  _locations: ReadonlySet<string>,
  options: SessionOptions,
): Promise<RawSession> {
  try {
    const settings = nativeOptions(options);
    return options.worker ? await loadInWorker(model, settings) : await loadHere(model, settings);
  } catch (error) {
    throw ortError(error, "creating the session");
  }
}

async function loadHere(
  model: Uint8Array,
  settings: ort.InferenceSession.SessionOptions,
): Promise<RawSession> {
  const session = await ort.InferenceSession.create(model, settings);
  return {
    async run(feeds, fetches) {
      const tensors = Object.fromEntries(
        Object.entries(feeds).map(([name, tensor]) => {
          const parts = toParts(name, tensor);
          return [name, new ort.Tensor(parts.type as "float32", parts.data as Float32Array, parts.dims)];
        }),
      );
      try {
        const results = await session.run(tensors, fetches);
        return collect(results as unknown as Record<string, OrtTensorParts>);
      } catch (error) {
        throw ortError(error, "running the model");
      }
    },
    async release() {
      if (settings.enableProfiling) session.endProfiling();
      await session.release();
    },
  };
}

const collect = (results: Record<string, OrtTensorParts>): Record<string, Tensor> =>
  Object.fromEntries(Object.entries(results).map(([name, parts]) => [name, fromParts(parts)]));

let shared: WorkerClient | undefined;
let sessionCount = 0;

/** One worker serves all sessions: they run one after another, sharing its threads. Another follows one that died. */
function sharedWorker(): WorkerClient {
  if (!shared || shared.isDead()) shared = workerClient(new Worker(new URL("./worker.mjs", import.meta.url)));
  return shared;
}

async function loadInWorker(
  model: Uint8Array,
  settings: ort.InferenceSession.SessionOptions,
): Promise<RawSession> {
  const client = sharedWorker();
  const id = ++sessionCount;
  await client.ask({ kind: "load", id, model, options: settings });
  return {
    async run(feeds: TensorMap, fetches) {
      const parts = Object.fromEntries(
        Object.entries(feeds).map(([name, tensor]) => [name, toParts(name, tensor)]),
      );
      try {
        return collect(await client.ask({ kind: "run", id, feeds: parts, fetches }));
      } catch (error) {
        throw ortError(error, "running the model");
      }
    },
    async release() {
      if (!client.isDead()) await client.ask({ kind: "release", id });
    },
  };
}
