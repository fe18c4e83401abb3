import type { InferenceSession } from "onnxruntime-web";
import { cpuCount } from "#io";
import { TunesmithError } from "../../errors/index.js";
import type { Tensor, TensorRef } from "../../tensor/index.js";
import { runtimeConfig } from "../config.js";
import { fromParts, ortError, toParts } from "./convert.js";
import type { Backend, ExternalLocation, RawSession, SessionOptions } from "./types.js";
import { openSessionInWorker } from "./web-client.js";
import { externalBytes, placeConstant } from "./web-constants.js";
import { openSession, type WebBackend, type WebSettings } from "./web-session.js";

export const defaultBackend: Backend = "wasm";
export const workerByDefault = false;

/** A page does not get to know. */
export const processMemory = (): number | undefined => undefined;

/** Constants wait where they are and are copied into the runtime's memory once per session. */
export async function place(data: Tensor | TensorRef): Promise<ExternalLocation | undefined> {
  return placeConstant(data);
}

export async function load(
  model: Uint8Array,
  locations: ReadonlySet<string>,
  options: SessionOptions,
): Promise<RawSession> {
  const session = await create(model, locations, options).catch((error: unknown) => {
    throw ortError(error, "creating the session");
  });
  return {
    async run(feeds, fetches) {
      const parts = Object.fromEntries(
        Object.entries(feeds).map(([name, tensor]) => [name, toParts(name, tensor)]),
      );
      try {
        const results = await session.run(parts, fetches);
        return Object.fromEntries(Object.entries(results).map(([name, value]) => [name, fromParts(value)]));
      } catch (error) {
        throw ortError(error, "running the model");
      }
    },
    release: () => session.release(),
  };
}

async function create(model: Uint8Array, locations: ReadonlySet<string>, options: SessionOptions) {
  const settings = webSettings(options);
  const data = await externalBytes(locations);
  if (options.worker) return openSessionInWorker(model, data, settings);
  return openSession(model, data, settings, loadOrt);
}

/** The plain build has no WebGPU, the other is twice its size: a page loads only what it uses. */
const loadOrt = (backend: WebBackend) =>
  backend === "webgpu" ? import("onnxruntime-web/webgpu") : import("onnxruntime-web/wasm");

function webSettings(options: SessionOptions): WebSettings {
  const backend = webBackend(options);
  const wasmPaths = wasmPathsOf(backend);
  return {
    backend,
    threads: threadsOf(backend, options.threads),
    ...(wasmPaths === undefined ? {} : { wasmPaths }),
    session: sessionOptions(backend, options),
  };
}

function webBackend(options: SessionOptions): WebBackend {
  const backend = options.backend ?? defaultBackend;
  if (backend === "wasm" || backend === "webgpu") return backend;
  throw new TunesmithError("config-invalid", `backend '${backend}' does not exist in a browser`, {
    fix: "use 'wasm' or 'webgpu'",
  });
}

/** More than one thread needs shared memory, which a page has only when it is cross-origin isolated. */
function threadsOf(backend: WebBackend, asked: number | undefined): number {
  if (!globalThis.crossOriginIsolated) return 1;
  return asked ?? (backend === "webgpu" ? 1 : cpuCount());
}

function wasmPathsOf(backend: WebBackend): WebSettings["wasmPaths"] {
  const { wasmPaths } = runtimeConfig();
  if (wasmPaths === undefined) return undefined;
  if (typeof wasmPaths === "string" || wasmPaths instanceof URL) return absolute(wasmPaths);
  const files = wasmPaths[backend];
  if (!files) return undefined;
  return {
    ...(files.wasm ? { wasm: absolute(files.wasm) } : {}),
    ...(files.mjs ? { mjs: absolute(files.mjs) } : {}),
  };
}

/** A worker has another base URL than the page. */
const absolute = (url: string | URL): string => new URL(url, globalThis.location?.href).href;

/** The same choices as in Node; configuration entries must be strings. */
function sessionOptions(backend: WebBackend, options: SessionOptions): InferenceSession.SessionOptions {
  return {
    executionProviders: [backend],
    graphOptimizationLevel: options.optimization ?? "all",
    enableMemPattern: false,
    enableCpuMemArena: options.arena ?? true,
    logSeverityLevel: 3,
    extra: {
      session: {
        disable_prepacking: options.prepack ? "0" : "1",
        intra_op: { allow_spinning: options.spin ? "1" : "0" },
      },
      ...options.config,
    },
  };
}
