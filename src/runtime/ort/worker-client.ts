import type { OrtTensorParts } from "./convert.js";

export type Values = Record<string, OrtTensorParts>;

/** What is used of a worker of Node's. */
export interface WorkerLike {
  on(event: "message", listener: (value: Reply) => void): unknown;
  on(event: "error" | "messageerror", listener: (error: Error) => void): unknown;
  on(event: "exit", listener: (code: number) => void): unknown;
  postMessage(message: unknown): void;
  ref(): void;
  unref(): void;
}

/** Calls to a worker, each answered by one message. */
export interface WorkerClient {
  ask(message: Record<string, unknown>): Promise<Values>;
  /** Whether the worker ended, and its sessions with it: every call fails from then on. */
  isDead(): boolean;
}

interface Reply {
  readonly call: number;
  readonly value?: Values;
  readonly error?: string;
}

/** A client of a worker, which keeps the process alive only while a call waits for its answer. */
export function workerClient(worker: WorkerLike): WorkerClient {
  const pending = new Map<number, { resolve(value: Values): void; reject(error: unknown): void }>();
  let calls = 0;
  let dead: Error | undefined;
  const die = (cause: Error) => {
    dead ??= cause;
    for (const entry of pending.values()) entry.reject(dead);
    pending.clear();
  };
  worker.on("message", (reply: Reply) => {
    const entry = pending.get(reply.call);
    pending.delete(reply.call);
    if (pending.size === 0) worker.unref();
    if (reply.error !== undefined) entry?.reject(new Error(reply.error));
    else entry?.resolve(reply.value ?? {});
  });
  worker.on("error", die);
  worker.on("messageerror", die);
  worker.on("exit", (code: number) => die(new Error(`the runtime's worker ended (exit code ${code})`)));
  worker.unref();
  return {
    ask: (message) =>
      new Promise((resolve, reject) => {
        if (dead) throw dead;
        const call = ++calls;
        // A message that cannot be sent throws here, before anything waits for its answer.
        worker.postMessage({ ...message, call });
        worker.ref();
        pending.set(call, { resolve, reject });
      }),
    isDead: () => dead !== undefined,
  };
}
