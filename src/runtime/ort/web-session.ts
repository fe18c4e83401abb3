/** ONNX Runtime Web in the thread that imports this: the page, or a worker. */
import type { InferenceSession } from "onnxruntime-web";
import { TunesmithError } from "../../errors/index.js";
import type { OrtTensorParts } from "./convert.js";
import type { ExternalData } from "./types.js";

export type WebBackend = "wasm" | "webgpu";

/** Plain data, so that it can be posted to a worker. */
export interface WebSettings {
  readonly backend: WebBackend;
  readonly threads: number;
  /** A folder, or the files themselves; absolute URLs. */
  readonly wasmPaths?: string | { readonly wasm?: string; readonly mjs?: string };
  readonly session: InferenceSession.SessionOptions;
}

export interface WebSession {
  run(
    feeds: Readonly<Record<string, OrtTensorParts>>,
    fetches: readonly string[],
  ): Promise<Record<string, OrtTensorParts>>;
  release(): Promise<void>;
}

export type OrtWeb = typeof import("onnxruntime-web/wasm");
/** Gives the build of ONNX Runtime Web for a backend; who calls decides how it is loaded. */
export type LoadOrt = (backend: WebBackend) => Promise<OrtWeb>;

const engines = new Map<WebBackend, { readonly ort: Promise<OrtWeb>; readonly threads: number }>();

/** One engine per backend and thread of the program; its number of threads cannot change. */
function engine(settings: WebSettings, loadOrt: LoadOrt): Promise<OrtWeb> {
  const { backend, threads } = settings;
  const running = engines.get(backend);
  if (running) {
    if (running.threads === threads) return running.ort;
    throw new TunesmithError(
      "config-invalid",
      `ONNX Runtime already runs with ${running.threads} thread(s) here, a session asks for ${threads}`,
      {
        fix: "ask for the same number everywhere, or use `worker: true`: each number of threads has its own worker",
      },
    );
  }
  const ort = loadOrt(backend).then((module) => {
    module.env.wasm.numThreads = threads;
    module.env.logLevel = "error";
    if (settings.wasmPaths !== undefined) module.env.wasm.wasmPaths = settings.wasmPaths;
    return module;
  });
  engines.set(backend, { ort, threads });
  // What could not be loaded (offline, a wrong address) may load the next time.
  ort.catch(() => engines.delete(backend));
  return ort;
}

let last: Promise<unknown> = Promise.resolve();

/**
 * One call after the other: session creation mounts external data in one place for all, and the WebGPU build cannot
 * be entered again while it waits for the device.
 */
function inTurn<T>(work: () => Promise<T>): Promise<T> {
  const result = last.then(work);
  last = result.catch(() => undefined);
  return result;
}

/** Creates a session over `model`, whose external constants are `data`. Errors are ONNX Runtime's own. */
export async function openSession(
  model: Uint8Array,
  data: readonly ExternalData[],
  settings: WebSettings,
  loadOrt: LoadOrt,
): Promise<WebSession> {
  const ort = await engine(settings, loadOrt);
  const options: InferenceSession.SessionOptions = {
    ...settings.session,
    externalData: data.map((entry) => ({ path: entry.location, data: entry.data })),
  };
  const session = await inTurn(() => ort.InferenceSession.create(model, options));
  const feed = (parts: OrtTensorParts) =>
    new ort.Tensor(parts.type as "float32", parts.data as Float32Array, parts.dims);
  return {
    run(feeds, fetches) {
      const tensors = Object.fromEntries(Object.entries(feeds).map(([name, parts]) => [name, feed(parts)]));
      return inTurn(async () => {
        const results = await session.run(tensors, fetches);
        return Object.fromEntries(
          Object.entries(results).map(([name, { type, data: values, dims }]) => [
            name,
            { type, data: values as OrtTensorParts["data"], dims },
          ]),
        );
      });
    },
    release: () => inTurn(() => session.release()),
  };
}
