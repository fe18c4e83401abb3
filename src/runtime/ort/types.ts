import type { Tensor, TensorRef } from "../../tensor/index.js";

/** Where a session executes. `cpu` is ONNX Runtime's native code in Node; the browser has `wasm` and `webgpu`. */
export type Backend = "cpu" | "wasm" | "webgpu";

export interface SessionOptions {
  /** Default: `cpu` in Node, `wasm` in the browser. */
  readonly backend?: Backend;
  /**
   * Intra-operator threads; default: the number of processors (1 for WebGPU). In a browser the first session of the
   * page, or of the worker, decides; without cross-origin isolation there is one thread.
   */
  readonly threads?: number;
  /**
   * Keep repacked copies of every weight: 2-12 % faster at 512 tokens (more for short inputs), at the price of one
   * to two more copies of the weights in memory. Default: when the weights take at most 64 MB; those of larger models
   * stay in the file and are mapped once.
   */
  readonly prepack?: boolean;
  /** Keep worker threads spinning between operators: helps a lone session on an idle machine. Default false. */
  readonly spin?: boolean;
  /** Run in a worker so that the event loop stays free. Default false. */
  readonly worker?: boolean;
  /** Level of ONNX Runtime's own graph optimiser. Default "all". */
  readonly optimization?: "disabled" | "basic" | "extended" | "all";
  /** Keep freed memory for the next run (default true); false returns it to the system at some cost in time. */
  readonly arena?: boolean;
  /** ONNX Runtime session configuration entries by their full key, e.g. `session.disable_cpu_ep_fallback: "1"`. */
  readonly config?: Readonly<Record<string, string>>;
  /** Write ONNX Runtime's per-operator timing to files with this prefix (Node). */
  readonly profile?: string;
}

/** A region of a file that holds a constant's bytes. */
export interface ExternalLocation {
  readonly location: string;
  readonly offset: number;
  readonly length: number;
}

export type TensorMap = Readonly<Record<string, Tensor>>;

/** A loaded model, before feed checks. */
export interface RawSession {
  run(feeds: TensorMap, fetches: readonly string[]): Promise<Record<string, Tensor>>;
  release(): Promise<void>;
}

export interface ExternalData {
  readonly location: string;
  readonly data: Uint8Array;
}

/** What the Node and the browser side each provide; imported as `#ort`. */
export interface OrtSeam {
  readonly defaultBackend: Backend;
  /** Whether long work goes to a worker unasked: in a page that takes a bundled worker script, so not there. */
  readonly workerByDefault: boolean;
  /** Puts a constant where the runtime can map it; undefined: keep it inside the model bytes. */
  place(data: Tensor | TensorRef): Promise<ExternalLocation | undefined>;
  load(model: Uint8Array, locations: ReadonlySet<string>, options: SessionOptions): Promise<RawSession>;
}
