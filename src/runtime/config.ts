import { TunesmithError } from "../errors/index.js";

/** Where a bundle or a server puts ONNX Runtime's files for one backend. */
export interface WasmFiles {
  readonly wasm?: string | URL;
  readonly mjs?: string | URL;
}

export interface RuntimeConfig {
  /**
   * Where the browser finds onnxruntime-web's `.wasm` and `.mjs` files: a folder (ending in `/`), or the files by
   * backend. Unset: beside onnxruntime-web's own script, which is right without a bundler and with Vite.
   */
  readonly wasmPaths?: string | URL | { readonly wasm?: WasmFiles; readonly webgpu?: WasmFiles };
  /**
   * The worker scripts for sessions with `worker: true`. Unset: `web-worker-wasm.js` and `web-worker-webgpu.js` beside
   * this library's own module; Vite and webpack find and bundle them by themselves, esbuild needs them as entry points
   * (`tunesmith/dist/runtime/ort/web-worker-wasm.js`).
   */
  readonly workerUrls?: { readonly wasm?: string | URL; readonly webgpu?: string | URL };
}

let config: RuntimeConfig = {};

/**
 * Tells the browser runtime where its files are. Call it before the first session: what is loaded stays loaded.
 * Node finds its files by itself and reads none of this.
 *
 * Throws `config-invalid` for an unknown setting.
 *
 * @example
 * ```ts
 * import { configureRuntime } from "tunesmith/runtime";
 * configureRuntime({ wasmPaths: "/assets/ort/", workerUrls: { wasm: "/assets/web-worker-wasm.js" } });
 * ```
 */
export function configureRuntime(changes: RuntimeConfig): void {
  for (const key of Object.keys(changes)) {
    if (key === "wasmPaths" || key === "workerUrls") continue;
    throw new TunesmithError("config-invalid", `configureRuntime knows no setting '${key}'`, {
      fix: "use wasmPaths or workerUrls",
    });
  }
  config = { ...config, ...changes };
}

/** What `configureRuntime` set so far. */
export const runtimeConfig = (): RuntimeConfig => config;
