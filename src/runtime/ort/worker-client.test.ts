import { Worker } from "node:worker_threads";
import { expect, test } from "vitest";
import { workerClient } from "./worker-client.js";

const client = (code: string) =>
  workerClient(new Worker(`const { parentPort } = require("node:worker_threads");\n${code}`, { eval: true }));

test("a worker that ends fails the calls that wait, and all later ones", async () => {
  const { ask, isDead } = client(
    'parentPort.on("message", ({ kind }) => kind === "end" && process.exit(3));',
  );
  const waiting = ask({ kind: "wait" });
  const ending = ask({ kind: "end" });
  await expect(waiting).rejects.toThrow(/exit code 3/);
  await expect(ending).rejects.toThrow(/exit code 3/);
  expect(isDead()).toBe(true);
  await expect(ask({ kind: "wait" })).rejects.toThrow(/exit code 3/);
});

test("a worker that throws passes its error on", async () => {
  const { ask } = client('parentPort.on("message", () => { throw new Error("broken"); });');
  await expect(ask({ kind: "any" })).rejects.toThrow(/broken/);
});

test("a message that cannot be sent fails its call alone", async () => {
  const { ask, isDead } = client(
    'parentPort.on("message", ({ call }) => parentPort.postMessage({ call, value: {} }));',
  );
  await expect(ask({ kind: "run", feed: () => 0 })).rejects.toThrow(/clone/);
  expect(isDead()).toBe(false);
  expect(await ask({ kind: "run" })).toEqual({});
});
