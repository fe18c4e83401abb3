/** The page's side of `web-worker.ts`. */
import { type ErrorCode, TunesmithError } from "../../errors/index.js";
import { runtimeConfig } from "../config.js";
import type { OrtTensorParts } from "./convert.js";
import type { ExternalData } from "./types.js";
import type { WebBackend, WebSession, WebSettings } from "./web-session.js";

export type WorkerRequest = { readonly call: number; readonly id: number } & (
  | {
      readonly kind: "load";
      readonly model: Uint8Array;
      readonly data: readonly ExternalData[];
      readonly settings: WebSettings;
    }
  | {
      readonly kind: "run";
      readonly feeds: Readonly<Record<string, OrtTensorParts>>;
      readonly fetches: readonly string[];
    }
  | { readonly kind: "release" }
);

export interface WorkerReply {
  readonly call: number;
  readonly value?: Record<string, OrtTensorParts>;
  readonly error?: string;
  /** Of an error that is typed already. */
  readonly code?: string | undefined;
}

type Values = Record<string, OrtTensorParts>;
interface Client {
  ask(message: Record<string, unknown>): Promise<Values>;
  /** Whether the worker failed, and its sessions are gone: every call fails from then on. */
  isDead(): boolean;
}

const clients = new Map<string, Client>();
let sessionCount = 0;

/** One worker per backend and thread count serves all their sessions, one call after the other. */
function clientOf(backend: WebBackend, threads: number): Client {
  const key = `${backend}-${threads}`;
  const known = clients.get(key);
  if (known) return known;
  const worker = startWorker(backend);
  const pending = new Map<number, { resolve(value: Values): void; reject(error: unknown): void }>();
  let calls = 0;
  let dead: TunesmithError | undefined;
  worker.onmessage = ({ data }: MessageEvent<WorkerReply>) => {
    const entry = pending.get(data.call);
    pending.delete(data.call);
    if (data.error === undefined) entry?.resolve(data.value ?? {});
    else
      entry?.reject(
        data.code ? new TunesmithError(data.code as ErrorCode, data.error) : new Error(data.error),
      );
  };
  worker.onerror = (event) => {
    event.preventDefault();
    clients.delete(key);
    const where = event.message ? `: ${event.message}` : " (its script could not be loaded)";
    dead = new TunesmithError("runtime-failed", `the runtime's worker failed${where}`, {
      fix: "check that the worker script is served, or name it with configureRuntime({ workerUrls })",
    });
    for (const entry of pending.values()) entry.reject(dead);
    pending.clear();
    worker.terminate();
  };
  const client: Client = {
    ask: (message) =>
      new Promise((resolve, reject) => {
        if (dead) throw dead;
        const call = ++calls;
        worker.postMessage({ ...message, call });
        pending.set(call, { resolve, reject });
      }),
    isDead: () => dead !== undefined,
  };
  clients.set(key, client);
  return client;
}

function startWorker(backend: WebBackend): Worker {
  const url = runtimeConfig().workerUrls?.[backend];
  if (url !== undefined) return new Worker(url, { type: "module", name: "tunesmith" });
  // Each written in one piece, because that is the form bundlers look for.
  return backend === "webgpu"
    ? new Worker(new URL("./web-worker-webgpu.js", import.meta.url), { type: "module", name: "tunesmith" })
    : new Worker(new URL("./web-worker-wasm.js", import.meta.url), { type: "module", name: "tunesmith" });
}

/** `openSession` of web-session.ts, executed in a worker. */
export async function openSessionInWorker(
  model: Uint8Array,
  data: readonly ExternalData[],
  settings: WebSettings,
): Promise<WebSession> {
  const { ask, isDead } = clientOf(settings.backend, settings.threads);
  const id = ++sessionCount;
  await ask({ kind: "load", id, model, data, settings });
  return {
    run: (feeds, fetches) => ask({ kind: "run", id, feeds, fetches }),
    async release() {
      if (!isDead()) await ask({ kind: "release", id });
    },
  };
}
