/** What the worker scripts share: sessions run for the page that started the worker, so that it stays responsive. */
import type { WorkerReply, WorkerRequest } from "./web-client.js";
import { type OrtWeb, openSession, type WebSession } from "./web-session.js";

interface WorkerScope {
  readonly name: string;
  onmessage: ((event: MessageEvent<WorkerRequest>) => void) | null;
  postMessage(reply: WorkerReply, transfer: Transferable[]): void;
}

const sessions = new Map<number, WebSession>();

/**
 * Answers the page's requests with one build of ONNX Runtime, which must be imported statically: in a bundle its
 * threads are started from the bundle's own script, which then runs as such a thread (`em-pthread`) and belongs to
 * the runtime alone.
 */
export function answerRequests(ort: OrtWeb): void {
  const scope = globalThis as unknown as WorkerScope;
  if (scope.name.startsWith("em-pthread")) return;
  scope.onmessage = async ({ data: request }) => {
    try {
      scope.postMessage(...(await answer(request, ort)));
    } catch (error) {
      const code = error instanceof Error && "code" in error ? String(error.code) : undefined;
      const message = error instanceof Error ? error.message : String(error);
      scope.postMessage({ call: request.call, error: message, code }, []);
    }
  };
}

async function answer(request: WorkerRequest, ort: OrtWeb): Promise<[WorkerReply, Transferable[]]> {
  const { call, id } = request;
  if (request.kind === "load") {
    sessions.set(id, await openSession(request.model, request.data, request.settings, async () => ort));
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
