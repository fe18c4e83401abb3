import { closeSync, mkdtempSync, openSync, rmSync, writeSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { Worker } from "node:worker_threads";
import * as ort from "onnxruntime-node";
import { bytesOf, type Tensor, type TensorRef } from "../../tensor/index.js";
import { fromParts, type OrtTensorParts, ortError, toParts } from "./convert.js";
import type { Backend, ExternalLocation, RawSession, SessionOptions, TensorMap } from "./types.js";

export const defaultBackend: Backend = "cpu";

/** Below this a constant travels inside the model bytes. */
const INLINE_BYTES = 16 * 1024;
const ALIGNMENT = 4096;

let store: { readonly path: string; readonly fd: number; end: number } | undefined;
const placed = new WeakMap<object, ExternalLocation>();

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
  const location = append(bytes);
  placed.set(data.data, location);
  return location;
}

function append(bytes: Uint8Array): ExternalLocation {
  store ??= openStore();
  const offset = Math.ceil(store.end / ALIGNMENT) * ALIGNMENT;
  for (let done = 0; done < bytes.byteLength; ) {
    done += writeSync(store.fd, bytes, done, bytes.byteLength - done, offset + done);
  }
  store.end = offset + bytes.byteLength;
  return { location: store.path.replace(/^\/+/, ""), offset, length: bytes.byteLength };
}

function openStore() {
  const folder = mkdtempSync(join(tmpdir(), "tunesmith-"));
  const path = join(folder, "weights.data");
  const fd = openSync(path, "w");
  process.once("exit", () => {
    closeSync(fd);
    rmSync(folder, { recursive: true, force: true });
  });
  return { path, fd, end: 0 };
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

interface Reply {
  readonly call: number;
  readonly value?: Record<string, OrtTensorParts>;
  readonly error?: string;
}
interface Pending {
  resolve(value: Record<string, OrtTensorParts>): void;
  reject(error: unknown): void;
}

let shared: { ask(message: Record<string, unknown>): Promise<Record<string, OrtTensorParts>> } | undefined;
let sessionCount = 0;

/** One worker serves all sessions: they run one after another, sharing its threads. */
function workerClient() {
  if (shared) return shared;
  const worker = new Worker(new URL("./worker.mjs", import.meta.url));
  const pending = new Map<number, Pending>();
  let calls = 0;
  const settle = (call: number) => {
    const entry = pending.get(call);
    pending.delete(call);
    if (pending.size === 0) worker.unref();
    return entry;
  };
  worker.on("message", (reply: Reply) => {
    const entry = settle(reply.call);
    if (reply.error !== undefined) entry?.reject(new Error(reply.error));
    else entry?.resolve(reply.value ?? {});
  });
  worker.on("error", (error) => {
    for (const entry of pending.values()) entry.reject(error);
    pending.clear();
    shared = undefined;
  });
  worker.unref();
  shared = {
    ask(message) {
      const call = ++calls;
      worker.ref();
      return new Promise((resolve, reject) => {
        pending.set(call, { resolve, reject });
        worker.postMessage({ ...message, call });
      });
    },
  };
  return shared;
}

async function loadInWorker(
  model: Uint8Array,
  settings: ort.InferenceSession.SessionOptions,
): Promise<RawSession> {
  const client = workerClient();
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
      await client.ask({ kind: "release", id });
    },
  };
}
