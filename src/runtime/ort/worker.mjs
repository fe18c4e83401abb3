// Runs ONNX Runtime sessions off the main thread. Plain JavaScript, because Node must be able to load it as a file
// both from the sources (tests) and from the build.
import { parentPort } from "node:worker_threads";
import * as ort from "onnxruntime-node";

const sessions = new Map();

const handlers = {
  async load({ id, model, options }) {
    sessions.set(id, await ort.InferenceSession.create(model, options));
    return {};
  },
  async run({ id, feeds, fetches }) {
    const session = sessions.get(id);
    const tensors = Object.fromEntries(
      Object.entries(feeds).map(([name, feed]) => [name, new ort.Tensor(feed.type, feed.data, feed.dims)]),
    );
    const results = await session.run(tensors, fetches);
    const value = {};
    const transfer = [];
    for (const [name, result] of Object.entries(results)) {
      value[name] = { type: result.type, data: result.data, dims: result.dims };
      if (ArrayBuffer.isView(result.data) && result.data.byteLength === result.data.buffer.byteLength) {
        transfer.push(result.data.buffer);
      }
    }
    return { value, transfer };
  },
  async release({ id }) {
    await sessions.get(id)?.release();
    sessions.delete(id);
    return {};
  },
};

parentPort.on("message", async (message) => {
  try {
    const { value, transfer } = await handlers[message.kind](message);
    parentPort.postMessage({ call: message.call, value }, transfer ?? []);
  } catch (error) {
    parentPort.postMessage({
      call: message.call,
      error: error instanceof Error ? error.message : String(error),
    });
  }
});
