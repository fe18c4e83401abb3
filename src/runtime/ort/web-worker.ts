/** Worker script: runs sessions for the page that started it, so that the page stays responsive. */

import type { WorkerReply, WorkerRequest } from "./web-client.js";
import { openSession, type WebSession } from "./web-session.js";

interface WorkerScope {
  onmessage: ((event: MessageEvent<WorkerRequest>) => void) | null;
  postMessage(reply: WorkerReply, transfer: Transferable[]): void;
}

const scope = globalThis as unknown as WorkerScope;
const sessions = new Map<number, WebSession>();

scope.onmessage = async ({ data: request }) => {
  try {
    scope.postMessage(...(await answer(request)));
  } catch (error) {
    const code = error instanceof Error && "code" in error ? String(error.code) : undefined;
    scope.postMessage(
      { call: request.call, error: error instanceof Error ? error.message : String(error), code },
      [],
    );
  }
};

async function answer(request: WorkerRequest): Promise<[WorkerReply, Transferable[]]> {
  const { call, id } = request;
  if (request.kind === "load") {
    sessions.set(id, await openSession(request.model, request.data, request.settings));
    return [{ call }, []];
  }
  const session = sessions.get(id);
  if (!session) throw new Error(`session ${id} is not in this worker`);
  if (request.kind === "release") {
    sessions.delete(id);
    await session.release();
    return [{ call }, []];
  }
  const value = await session.run(request.feeds, request.fetches);
  return [{ call, value }, Object.values(value).flatMap(({ data }) => transferable(data))];
}

/** Buffers that hold nothing but the result are handed over instead of copied. */
function transferable(data: unknown): Transferable[] {
  if (!ArrayBuffer.isView(data) || !(data.buffer instanceof ArrayBuffer)) return [];
  return data.byteLength === data.buffer.byteLength ? [data.buffer] : [];
}
