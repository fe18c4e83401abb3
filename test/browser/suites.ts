/** What each page tests; one page per suite, because a page's runtime keeps its number of threads. */
import { openFile, readFile, remove, tempDir, writeFileAtomic } from "#io";
import { input, makeGraph, op, ops } from "../../src/graph/index.js";
import { configureRuntime, createSession, evaluate, type SessionOptions } from "../../src/runtime/index.js";
import {
  openSafetensors,
  type Tensor,
  tensor,
  tensorsEqual,
  writeSafetensors,
} from "../../src/tensor/index.js";
import { gpt2Matches } from "./gpt2.js";
import { assert, close, difference, equal, failure, skip, test } from "./harness.js";
import { noise } from "./noise.js";
import { type OperatorCase, operatorCases } from "./operators.js";
import { interrupted, quickstart, resumed } from "./quickstart.js";
import type { PlainTensor, Reference } from "./reference.js";
import { shippedGraph } from "./shipped-graph.js";
import { slowGraph, trainingGraph } from "./training-graph.js";
import { webgpuFacts } from "./webgpu-facts.js";

const restored = ({ dtype, shape, data }: PlainTensor): Tensor =>
  tensor(
    dtype as Tensor["dtype"],
    shape,
    data.map((x) => x ?? Number.NaN),
  );

let loaded: Promise<Reference> | undefined;
async function referenceOf(name: string): Promise<Record<string, Tensor>> {
  loaded ??= fetch("/reference.json").then((response) => response.json() as Promise<Reference>);
  const entries = Object.entries((await loaded)[name] ?? {});
  assert(entries.length > 0, `no reference for '${name}'`);
  return Object.fromEntries(entries.map(([key, value]) => [key, restored(value)]));
}

async function sameAsNode(actual: Record<string, Tensor>, name: string, tolerance: number): Promise<string> {
  let worst = 0;
  for (const [key, expected] of Object.entries(await referenceOf(name))) {
    close(actual[key], expected, tolerance, `${name} ${key}`, 1e-9);
    worst = Math.max(worst, difference(actual[key], expected, 1e-9));
  }
  return `largest difference ${worst.toExponential(1)}`;
}

function training(options: SessionOptions, tolerance: number): void {
  const label = `${options.backend} ${options.worker ? "in a worker, " : ""}${options.threads ?? "default"} thread(s)`;
  test(`a training graph's loss and gradients equal Node's (${label})`, async () => {
    const { graph, feeds } = trainingGraph();
    return sameAsNode(await evaluate(graph, feeds, options), "training", tolerance);
  });
}

/** The same of the model that ships, with every adapter of the quickstart. */
function shipped(options: SessionOptions, tolerance: number): void {
  test(`the shipped model's loss and gradients equal Node's (${options.backend})`, async () => {
    const { graph, feeds } = await shippedGraph(new URL("/assets/default-model/", location.origin));
    return sameAsNode(await evaluate(graph, feeds, options), "shipped", tolerance);
  });
}

/** NaN must be where it is expected; everything else is compared as numbers. */
function compareOperator(
  item: OperatorCase,
  actual: Record<string, Tensor>,
  expected: Record<string, Tensor>,
  tolerance: number,
): number {
  let worst = 0;
  for (const [key, value] of Object.entries(expected)) {
    close(actual[key], value, tolerance, `${item.name} ${key}`);
    worst = Math.max(worst, difference(actual[key], value));
  }
  return worst;
}

function operators(options: SessionOptions, toleranceOf: (item: OperatorCase) => number): void {
  for (const item of operatorCases()) {
    test(`${options.backend} operator: ${item.name}`, async () => {
      const actual = await evaluate(item.graph, item.feeds, options);
      compareOperator(item, actual, await referenceOf(item.name), toleranceOf(item));
    });
  }
}

function files(): void {
  test("safetensors from a Blob, by range requests, and to OPFS and back", async () => {
    const url = `${location.origin}/fixtures/safetensors/reference.safetensors`;
    const blob = await (await fetch(url)).blob();
    const [fromBlob, fromUrl] = [await openSafetensors(blob), await openSafetensors(new URL(url))];
    const folder = await tempDir();
    await writeSafetensors(`${folder}/copy.safetensors`, fromBlob.entries, { metadata: fromBlob.metadata });
    const copy = await openSafetensors(`${folder}/copy.safetensors`);
    for (const name of fromBlob.entries.keys()) {
      const value = await fromBlob.read(name);
      assert(tensorsEqual(value, await copy.read(name)), `${name} from OPFS`);
      assert(tensorsEqual(value, await fromUrl.read(name)), `${name} by range requests`);
    }
    await remove(folder);
    return `${fromBlob.entries.size} tensors`;
  });
  test("a large remote file is read in parts", async () => {
    const source = await openFile(new URL(`${location.origin}/large`));
    const part = await source.read(5_000_000, 4);
    equal(
      [source.size, ...part],
      [8_000_000, ...[0, 1, 2, 3].map((at) => (5_000_000 + at) % 251)],
      "size and bytes",
    );
    const served = Number(await (await fetch("/served?path=/large")).text());
    assert(served < 200_000, `${served} bytes were sent for 4`);
  });
  test("an interrupted write leaves the old file", async () => {
    const folder = await tempDir();
    await writeFileAtomic(`${folder}/note`, "old");
    await failure(
      writeFileAtomic(`${folder}/note`, async (writer) => {
        await writer.write(new Uint8Array(10));
        throw new Error("stop");
      }),
    );
    equal(new TextDecoder().decode(await readFile(`${folder}/note`)), "old", "content");
    await remove(folder);
  });
}

function wasmOneThread(): void {
  const options = { backend: "wasm", threads: 1 } as const;
  training(options, 1e-5);
  test("the runtime's number of threads is fixed; another one is a typed error", async () => {
    const x = input("x", "float32", [1]);
    const { code, message } = await failure(
      createSession(makeGraph("g", [x], [["y", ops.neg(x)]]), { threads: 2 }),
    );
    equal(code, "config-invalid", message);
  });
  test("backends that a browser lacks are a typed error", async () => {
    const x = input("x", "float32", [1]);
    const { code } = await failure(
      createSession(makeGraph("g", [x], [["y", ops.neg(x)]]), { backend: "cpu" }),
    );
    equal(code, "config-invalid", "code");
  });
  test("half precision goes in and out as raw bits", async () => {
    const x = input("x", "float16", [3]);
    const bits = Uint16Array.of(0x3c00, 0xc000, 0x3800);
    const { y } = await evaluate(
      makeGraph("g", [x], [["y", ops.neg(x)]]),
      { x: tensor("float16", [3], bits) },
      options,
    );
    assert(y?.data instanceof Uint16Array, "outputs are Uint16Array");
    equal([...y.data], [0xbc00, 0x4000, 0xb800], "bits");
  });
  operators(options, () => 1e-5);
}

function wasmTwoThreads(): void {
  const options = { backend: "wasm", threads: 2 } as const;
  training(options, 1e-5);
  shipped(options, 1e-5);
  test("the GPT-2 fixture from OPFS: logits, loss and gradients", () => gpt2Matches(options, 1e-4));
  test("sessions created and run at the same time do not disturb one another", async () => {
    const { graph, feeds } = trainingGraph();
    const results = await Promise.all([1, 2, 3].map(() => evaluate(graph, feeds, options)));
    for (const result of results) await sameAsNode(result, "training", 1e-5);
  });
  test("a tensor beyond the address space is an out-of-memory error, and the runtime goes on", async () => {
    const x = input("x", "float32", [40_000, 1]);
    const large = ops.add(x, ops.transpose(x, [1, 0]));
    const graph = makeGraph("large", [x], [["y", ops.reduceSum(ops.exp(large), undefined, false)]]);
    const { code, message } = await failure(evaluate(graph, { x: noise(1, [40_000, 1]) }, options));
    equal(code, "out-of-memory", message);
    const { graph: small, feeds } = trainingGraph();
    await sameAsNode(await evaluate(small, feeds, options), "training", 1e-5);
  });
}

async function ticksDuring(work: Promise<unknown>): Promise<{ ticks: number; milliseconds: number }> {
  const start = performance.now();
  let ticks = 0;
  const timer = setInterval(() => ticks++, 10);
  await work;
  clearInterval(timer);
  return { ticks, milliseconds: performance.now() - start };
}

function worker(): void {
  const options = { backend: "wasm", threads: 2, worker: true } as const;
  training(options, 1e-5);
  training({ ...options, threads: 1 }, 1e-5);
  test("the page's timers go on while a worker computes, and stand still without one", async () => {
    const { graph, feeds } = slowGraph(384, 60);
    const measure = async (how: SessionOptions) => {
      const session = await createSession(graph, how);
      const result = await ticksDuring(session.run(feeds));
      await session.release();
      return result;
    };
    const free = await measure({ ...options, threads: 1 });
    const blocked = await measure({ backend: "wasm", threads: 1 });
    assert(free.milliseconds > 100, `the run took only ${free.milliseconds} ms`);
    assert(free.ticks > free.milliseconds / 40, `${free.ticks} ticks in ${free.milliseconds} ms`);
    assert(blocked.ticks <= 3, `${blocked.ticks} ticks without a worker`);
    return `${free.ticks} ticks in ${Math.round(free.milliseconds)} ms; ${blocked.ticks} without a worker`;
  });
  test("feeds stay usable and errors keep their type across the worker", async () => {
    const { graph, feeds } = slowGraph(8, 1);
    const session = await createSession(graph, options);
    const [once, again] = [await session.run(feeds), await session.run(feeds)];
    assert(tensorsEqual(once.y as Tensor, again.y as Tensor), "the same feeds give the same result");
    await session.release();
    const x = input("x", "float32", [2]);
    const broken = makeGraph(
      "g",
      [x],
      [["y", op("Reshape", [x, ops.ints([2])], { allowzero: { s: "no" } })]],
    );
    const { code } = await failure(createSession(broken, options));
    equal(code, "runtime-failed", "code");
  });
}

async function hasAdapter(): Promise<boolean> {
  const gpu = (navigator as { gpu?: { requestAdapter(): Promise<unknown> } }).gpu;
  return gpu !== undefined && (await gpu.requestAdapter()) !== null;
}

async function webgpu(): Promise<void> {
  if (!(await hasAdapter())) {
    test("WebGPU", async () => skip("this browser gives no WebGPU adapter"));
    return;
  }
  const options = { backend: "webgpu" } as const;
  training(options, 1e-5);
  test("the training graph runs without falling back to the CPU", async () => {
    const { graph, feeds } = trainingGraph();
    const strict = { ...options, config: { "session.disable_cpu_ep_fallback": "1" } };
    return sameAsNode(await evaluate(graph, feeds, strict), "training", 1e-5);
  });
  test("the GPT-2 fixture: logits, loss and gradients", () => gpt2Matches(options, 1e-4));
  operators(options, (item) => item.gpuTolerance);
  training({ ...options, worker: true }, 1e-5);
}

/** In a page of its own: software rendering takes its time. */
async function webgpuShipped(): Promise<void> {
  if (await hasAdapter()) shipped({ backend: "webgpu" }, 1e-5);
  else test("the shipped model on WebGPU", async () => skip("this browser gives no WebGPU adapter"));
}

/** In a page of its own: what failed to load is not tried again. */
function badPaths(): void {
  test("missing runtime files are a typed error that says what to configure", async () => {
    configureRuntime({ wasmPaths: "/nowhere/" });
    const { graph, feeds } = slowGraph(8, 1);
    const { code, message } = await failure(evaluate(graph, feeds, { backend: "wasm" }));
    equal(code, "runtime-failed", message);
    assert(message.includes("configureRuntime({ wasmPaths })"), message);
  });
}

async function facts(): Promise<void> {
  if (!(await hasAdapter())) test("WebGPU facts", async () => skip("this browser gives no WebGPU adapter"));
  else webgpuFacts();
}

export const suites: Readonly<Record<string, () => void | Promise<void>>> = {
  files,
  "wasm-1": wasmOneThread,
  "wasm-2": wasmTwoThreads,
  worker,
  quickstart: () => quickstart({ backend: "wasm", threads: 2, worker: true }, 10),
  resume: interrupted,
  webgpu,
  "webgpu-shipped": webgpuShipped,
  facts,
  "bad-paths": badPaths,
  // Only its own page loads the library.
  "transformers-js": async () => (await import("./transformers-js.js")).transformersJs(),
};

/** What a suite tests after its page was reloaded. */
export const afterReload: typeof suites = { resume: resumed };

/** Everything is served from one place; nothing may come from anywhere else. */
export const configure = (): void => configureRuntime({ wasmPaths: "/ort/" });
