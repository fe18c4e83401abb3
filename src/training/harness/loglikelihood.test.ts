import { existsSync, mkdtempSync, readdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { causalLm, exportOnnx, loadModel, loadWeights, logitsOf, readJson } from "../../models/index.js";
import { openSafetensors } from "../../tensor/index.js";
import { logLikelihoods } from "./loglikelihood.js";

const ROOT = new URL("../../../", import.meta.url).pathname;
const FIXTURES = `${ROOT}fixtures/models/`;
const names = readdirSync(FIXTURES).filter((name) => existsSync(`${FIXTURES}${name}/config.json`));
const session = { threads: 1 };

const logSoftmax = (row: Float32Array): number[] => {
  const top = Math.max(...row);
  const total = row.reduce((sum, value) => sum + Math.exp(value - top), 0);
  return Array.from(row, (value) => value - top - Math.log(total));
};

test.each(names)("%s: as the logits of transformers say", async (name) => {
  const model = causalLm(
    await readJson(`${FIXTURES}${name}/config.json`),
    await loadWeights(FIXTURES + name),
  );
  const expected = await openSafetensors(`${FIXTURES}${name}/expected.safetensors`);
  const ids = await expected.read("input_ids");
  const logits = (await expected.read("logits")).data as Float32Array;
  const [batch, length] = ids.shape as [number, number];
  const vocab = logits.length / (batch * length);
  const tokens = Array.from(ids.data as BigInt64Array, Number);
  const row = (at: number) => tokens.slice(at * length, (at + 1) * length);
  const cases = Array.from({ length: batch }, (_, at) =>
    [1, 3, length - 1].map((cut) => ({ at, cut })),
  ).flat();
  const requests = cases.map(({ at, cut }) => ({
    context: row(at).slice(0, cut),
    continuation: row(at).slice(cut),
  }));
  // A greedy one besides: the likeliest token after the whole of the first row but its last.
  const likeliest = (at: number) => {
    const own = logits.subarray(at * vocab, (at + 1) * vocab);
    return own.indexOf(Math.max(...own));
  };
  requests.push({ context: row(0).slice(0, 4), continuation: [likeliest(3)] });
  const actual = await logLikelihoods(model, requests, { batchSize: 3, session });
  for (const [index, { at, cut }] of cases.entries()) {
    let sum = 0;
    let greedy = true;
    for (let place = cut; place < length; place++) {
      const own = logits.subarray((at * length + place - 1) * vocab, (at * length + place) * vocab);
      sum += logSoftmax(own)[row(at)[place] as number] as number;
      greedy &&= row(at)[place] === own.indexOf(Math.max(...own));
    }
    expect(Math.abs((actual[index]?.logLikelihood ?? 0) - sum) / Math.abs(sum)).toBeLessThan(1e-4);
    expect(actual[index]?.isGreedy).toBe(greedy);
  }
  expect(actual.at(-1)?.isGreedy).toBe(true);
});

test("batches and chunks change nothing; bad requests are named", async () => {
  const model = await loadModel(`${ROOT}assets/default-model`);
  const ids = (seed: number, count: number) =>
    Array.from({ length: count }, (_, at) => (at * 37 + seed) % 2048);
  const long = Array.from({ length: 12 }, (_, at) => ({ context: [0], continuation: ids(at, 250) }));
  const short = Array.from({ length: 5 }, (_, at) => ({
    context: ids(at, 2 + at),
    continuation: ids(9, 1 + at),
  }));
  const requests = [...short, ...long, { context: ids(3, 400), continuation: [5] }];
  const together = await logLikelihoods(model, requests, { batchSize: 12, session });
  const single = await logLikelihoods(model, requests, { batchSize: 1, maxShapes: 8, session });
  for (const [at, { logLikelihood }] of together.entries()) {
    expect(logLikelihood / (single[at]?.logLikelihood as number)).toBeCloseTo(1, 5);
  }
  // What does not fit loses its beginning.
  const [cut] = await logLikelihoods(model, [{ context: ids(3, 400).slice(-256), continuation: [5] }], {
    session,
  });
  expect(together.at(-1)?.logLikelihood).toBeCloseTo(cut?.logLikelihood as number, 4);

  const refused = (context: number[], continuation: number[]) =>
    expect(logLikelihoods(model, [{ context, continuation }])).rejects.toMatchObject({
      code: "data-invalid",
    });
  await refused([], [1]);
  await refused([1], []);
  await refused([1], [2048]);
  await refused([1], ids(0, 257));
  const signal = AbortSignal.abort();
  await expect(logLikelihoods(model, short, { signal })).rejects.toMatchObject({ code: "cancelled" });
}, 60_000);

test.each(["gpt2", "llama"])("an ONNX file: %s", async (name) => {
  const base = causalLm(await readJson(`${FIXTURES}${name}/config.json`), await loadWeights(FIXTURES + name));
  const folder = mkdtempSync(join(tmpdir(), "tunesmith-likelihood-"));
  await exportOnnx(base, folder);
  const model = await loadModel(join(folder, "model.onnx"));
  const ids = [3, 9, 4, 1, 7, 2];
  const logits = await logitsOf(model, ids, session);
  const vocab = logits.shape[1] as number;
  const row = (at: number) =>
    logSoftmax((logits.data as Float32Array).subarray(at * vocab, (at + 1) * vocab));
  const expected = [2, 3, 4].reduce((sum, at) => sum + (row(at)[ids[at + 1] as number] as number), 0);
  const [actual] = await logLikelihoods(model, [{ context: ids.slice(0, 3), continuation: ids.slice(3) }], {
    session,
  });
  expect(actual?.logLikelihood).toBeCloseTo(expected, 4);
});
