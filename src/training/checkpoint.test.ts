import { appendFile, mkdtemp, readdir, readFile, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { listCheckpoints, loadCheckpoint, loadLatest, saveCheckpoint } from "./checkpoint.js";
import { earlyStopping } from "./early-stopping.js";
import {
  adam,
  adamw,
  cosine,
  type Optimizer,
  type Params,
  restoreOptimizerState,
  restoreParams,
  sgd,
} from "./optim/index.js";

let run = "";
beforeEach(async () => {
  run = await mkdtemp(join(tmpdir(), "run-"));
});
afterEach(() => rm(run, { recursive: true }));

const config = { optimizer: { name: "adamw", lr: 0.01 }, training: { steps: 20, seed: 1 } };
const start = (): Map<string, Float32Array> =>
  new Map([
    ["b.lora_A", Float32Array.from({ length: 6 }, (_, i) => Math.sin(i))],
    ["a.lora_B", Float32Array.from({ length: 4 }, (_, i) => Math.cos(i) / 3)],
  ]);
const bits = (params: Params) =>
  Object.fromEntries([...params].map(([name, data]) => [name, [...new Uint32Array(data.slice().buffer)]]));
const folder = (step: number) => join(run, "checkpoints", `step-${String(step).padStart(6, "0")}`);

function train(
  optimizer: Optimizer,
  params: Params,
  state: ReturnType<Optimizer["init"]>,
  from: number,
  to: number,
) {
  for (let step = from; step <= to; step++) {
    const grads = new Map(
      [...params].map(([name, data]) => [name, data.map((value, i) => value + Math.sin(step * (i + 1)))]),
    );
    optimizer.step(params, grads, state, { step });
  }
}

async function saveAt(
  step: number,
  metric?: number,
  keep?: Parameters<typeof saveCheckpoint>[2],
): Promise<void> {
  const params = start();
  const optimizer = adamw({ lr: 0.01 }).init(params);
  await saveCheckpoint(run, { state: { step, epoch: 0, metric }, params, optimizer, config }, keep);
}

const optimizers: Record<string, () => Optimizer> = {
  adamw: () => adamw({ lr: 0.01, maxGradNorm: 1, schedule: cosine({ totalSteps: 20, warmupSteps: 3 }) }),
  amsgrad: () => adamw({ lr: 0.01, amsgrad: true }),
  adam: () => adam({ lr: 0.01, weightDecay: 0.1 }),
  sgd: () => sgd({ lr: 0.01 }),
  momentum: () => sgd({ lr: 0.01, momentum: 0.9 }),
  nesterov: () => sgd({ lr: 0.01, momentum: 0.9, nesterov: true, maxGradNorm: 1 }),
};

test.each(Object.keys(optimizers))(
  "%s: saved, loaded and continued equals uninterrupted, bit for bit",
  async (name) => {
    const make = optimizers[name] as () => Optimizer;
    const whole = start();
    train(make(), whole, make().init(whole), 1, 20);

    const first = start();
    const firstState = make().init(first);
    train(make(), first, firstState, 1, 9);
    await saveCheckpoint(run, { state: { step: 9, epoch: 0 }, params: first, optimizer: firstState, config });

    const { checkpoint } = await loadLatest(run, { config });
    const second = start();
    const secondState = make().init(second);
    if (!checkpoint) throw new Error("no checkpoint");
    restoreParams(second, checkpoint.params);
    restoreOptimizerState(secondState, checkpoint.optimizer);
    train(make(), second, secondState, checkpoint.state.step + 1, 20);
    expect(bits(second)).toEqual(bits(whole));
  },
);

test("every kind of value comes back exactly", async () => {
  const params = new Map([
    ["w", Float32Array.of(Number.NaN, -0, Number.POSITIVE_INFINITY, 1e-45, 3.4028235e38, 0.1)],
    ["signalling", new Float32Array(Uint32Array.of(0x7f800001, 0xffc12345).buffer)],
    ["empty", new Float32Array(0)],
  ]);
  const shapes = new Map([["w", [2, 3]]]);
  const stopping = earlyStopping(params, { patience: 4 });
  stopping.observe(5, 0.1 + 0.2);
  const state = {
    step: 7,
    epoch: 1,
    data: { position: 12, order: [3, 1, 2] },
    rng: { counter: 2n ** 64n - 1n, spare: -0, limit: Number.NEGATIVE_INFINITY, last: 5e-324 },
    schedule: { type: "cosine", totalSteps: 20 },
    metric: Number.NaN,
    earlyStopping: stopping.state(),
    zeroUpdate: { zeroSteps: { w: 2 } },
  };
  const before = bits(params);
  const optimizer = { slots: {}, scalars: { d: 1e-6, norm: Number.NaN }, inner: [] };
  const best = stopping.best();
  await saveCheckpoint(run, { state, params, shapes, optimizer, best, config });
  const loaded = await loadCheckpoint(run, 7);
  expect(loaded.state).toEqual(state);
  expect(Object.is((loaded.state.rng as { spare: number }).spare, -0)).toBe(true);
  expect(loaded.optimizer.scalars).toEqual(optimizer.scalars);
  expect(loaded.config).toEqual(config);
  expect(bits(loaded.best ?? new Map())).toEqual(before);
  const live: Params = new Map([...params].map(([name, data]) => [name, new Float32Array(data.length)]));
  restoreParams(live, loaded.params);
  expect(bits(live)).toEqual(before);
  const resumed = earlyStopping(live, { patience: 4 });
  resumed.restore(loaded.state.earlyStopping ?? stopping.state(), loaded.best);
  live.get("w")?.fill(0);
  expect(resumed.restoreBest()).toBe(5);
  expect(bits(live)).toEqual(before);
});

test("state that is not plain data is refused before anything is written", async () => {
  const params = start();
  const optimizer = adamw({ lr: 0.01 }).init(params);
  const state = { step: 1, epoch: 0, rng: { words: new Uint32Array(2) as never } };
  await expect(saveCheckpoint(run, { state, params, optimizer, config })).rejects.toThrow(
    expect.objectContaining({ code: "config-invalid", message: expect.stringMatching(/state\.rng\.words/) }),
  );
  expect(await listCheckpoints(run)).toEqual([]);
});

test.each<[string, () => Promise<unknown>, RegExp]>([
  ["no manifest", () => rm(join(folder(20), "manifest.json")), /no complete checkpoint/],
  ["truncated tensors", () => truncate(join(folder(20), "params.safetensors"), 50), /has 50 bytes/],
  [
    "missing file",
    () => rm(join(folder(20), "optimizer.safetensors")),
    /optimizer.safetensors: no such file/,
  ],
  ["longer state", () => appendFile(join(folder(20), "state.json"), " "), /state.json has/],
  ["garbled manifest", () => writeFile(join(folder(20), "manifest.json"), "{"), /not valid JSON/],
  ["empty manifest", () => writeFile(join(folder(20), "manifest.json"), "null"), /manifest is empty/],
  [
    "one changed byte",
    async () => {
      const path = join(folder(20), "params.safetensors");
      const bytes = await readFile(path);
      bytes[bytes.length - 1] = (bytes.at(-1) ?? 0) ^ 1;
      await writeFile(path, bytes);
    },
    /its bytes changed/,
  ],
])("%s: the damaged checkpoint is skipped and reported", async (_name, damage, reason) => {
  await saveAt(10);
  await saveAt(20);
  await damage();
  const { checkpoint, skipped } = await loadLatest(run, { config });
  expect(checkpoint?.state.step).toBe(10);
  expect(skipped).toEqual([{ folder: folder(20), reason: expect.stringMatching(reason) }]);
});

test("a later format is an error, not a damaged checkpoint", async () => {
  await saveAt(10);
  await writeFile(join(folder(10), "manifest.json"), '{"formatVersion": 2, "files": {}}');
  await expect(loadLatest(run)).rejects.toThrow(expect.objectContaining({ code: "format-unsupported" }));
});

test("an empty run has no checkpoint", async () => {
  expect(await loadLatest(join(run, "absent"))).toEqual({ checkpoint: undefined, skipped: [] });
  await expect(loadCheckpoint(run, 3)).rejects.toThrow(expect.objectContaining({ code: "file-not-found" }));
});

test("another configuration is refused, naming the keys; allowed keys may differ", async () => {
  await saveAt(10);
  const other = { training: { steps: 40, seed: 1 }, optimizer: { lr: 0.02, name: "adamw", eps: 1 } };
  await expect(loadLatest(run, { config: other })).rejects.toThrow(
    expect.objectContaining({
      code: "checkpoint-mismatch",
      message: expect.stringMatching(
        /optimizer.eps: absent -> 1; optimizer.lr: 0.01 -> 0.02; training.steps: 20 -> 40/,
      ),
      details: { folder: folder(10), keys: ["optimizer.eps", "optimizer.lr", "training.steps"] },
    }),
  );
  const longer = { ...config, training: { seed: 1, steps: 40 } };
  const { checkpoint } = await loadLatest(run, { config: longer, mayDiffer: ["training.steps"] });
  expect(checkpoint?.state.step).toBe(10);
});

test("the latest and the best stay; torn folders and those of later steps go", async () => {
  const keep = { keepLast: 2, keepBest: 1 };
  await saveAt(10, 3, keep);
  await saveAt(20, 1, keep);
  await saveAt(30, 2, keep);
  await saveAt(40, Number.NaN, keep);
  expect(await listCheckpoints(run)).toEqual([20, 30, 40]);
  await rm(join(folder(30), "manifest.json"));
  await saveAt(50, 4, keep);
  expect(await listCheckpoints(run)).toEqual([20, 40, 50]);
  await saveAt(25, 1.5, keep);
  expect(await listCheckpoints(run)).toEqual([20, 25]);
  await saveAt(25, 0.5, { keepLast: 1, mode: "max" });
  expect(await listCheckpoints(run)).toEqual([20, 25]);
  expect((await loadCheckpoint(run, 25)).state.metric).toBe(0.5);
  expect(await readdir(folder(25))).toEqual([
    "manifest.json",
    "optimizer.safetensors",
    "params.safetensors",
    "state.json",
  ]);
});
