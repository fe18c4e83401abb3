/** Training in the page: the model that ships, as the quickstart trains it, and runs that a reload cuts off. */
import { makeDir, readFile, readText, remove, tempDir, writeFileAtomic } from "#io";
import { type Pack, packExamples, paddingId, prepareRows } from "../../src/data/index.js";
import { type AdaptedLm, adapt, loadAdapter, lora, saveAdapter } from "../../src/methods/index.js";
import { defaultModelPath, loadModel, logitsOf, probeIds } from "../../src/models/index.js";
import type { SessionOptions } from "../../src/runtime/index.js";
import { maxAbsDiff } from "../../src/tensor/index.js";
import { adamw, readMetrics, type TrainOptions, train } from "../../src/training/index.js";
import { assert, equal, test } from "./harness.js";

/** The shipped model learns a text for some steps; its adapter goes to the private file system and comes back. */
export function quickstart(session: SessionOptions, steps: number): void {
  const label = `${session.backend}, ${session.worker ? "in a worker, " : ""}${session.threads ?? 1} thread(s)`;
  test(`the shipped model learns in the page; its adapter is saved and read back (${label})`, async () => {
    const folder = await defaultModelPath(new URL("/assets/default-model/", location.origin));
    const base = await loadModel(folder);
    const { tokenizer } = base;
    assert(tokenizer !== undefined, "the model has its tokenizer");
    const text = await (await fetch("/fixtures/default-model/held-out.ts")).text();
    const { packs } = prepareRows([{ kind: "text", text }], tokenizer, { length: 128 });
    const model = await adapt(base, lora({ rank: 8, alpha: 16, targets: "all-linear" }));
    const losses: number[] = [];
    const [batchSize, lengths] = [4, [128]];
    const { evaluation, tokensPerSecond } = await train(model, {
      ...{ train: packs, validation: packs, batchSize, lengths, steps, session },
      padId: paddingId(tokenizer),
      optimizer: adamw({ lr: 1e-2 }),
      onEvent: (event) => event.type === "step" && losses.push(event.loss),
    });
    const [first, last] = [losses[0] as number, evaluation?.loss ?? Number.NaN];
    assert(last < first - 0.1, `the loss fell from ${first} to ${last} only`);
    const out = await tempDir();
    const { sitesChanged } = await saveAdapter(model, out);
    const config = JSON.parse(await readText(`${out}/adapter_config.json`));
    equal([config.peft_type, config.r], ["LORA", 8], "the folder is PEFT's");
    const ids = probeIds(base.sizes.vocabSize, 16);
    const reloaded = await loadAdapter(await loadModel(folder), out);
    const [before, after] = [await logitsOf(model, ids, session), await logitsOf(reloaded, ids, session)];
    assert(maxAbsDiff(before, await logitsOf(base, ids, session)) > 1e-3, "the adapter changes logits");
    equal(maxAbsDiff(after, before), 0, "difference of the logits after reading the adapter back");
    await remove(out);
    const fell = `loss ${first.toFixed(3)} -> ${last.toFixed(3)} in ${losses.length} steps`;
    return `${fell}, ${Math.round(tokensPerSecond)} tokens/s; ${sitesChanged} modules changed`;
  });
}

const MODEL = "/models/llama";
const RUN = "/runs/resume";
const EXPECTED = "/runs/resume-expected";
const [STEPS, CUT_AFTER] = [8, 5];

/** Documents of repeating patterns, as in the tests of the training loop. */
function patterns(): Pack[] {
  const examples = Array.from({ length: 12 }, (_, index) => {
    const ids = Int32Array.from({ length: 5 + (index % 4) }, (_, at) => (3 + index + 5 * at) % 60);
    return { ids, lossMask: new Uint8Array(ids.length).fill(1, 1) };
  });
  return packExamples(examples, { length: 16 });
}

/** The Llama fixture with a fresh adapter that has dropout, so that random numbers must be resumed too. */
async function fixtureModel(): Promise<AdaptedLm> {
  await makeDir(MODEL);
  for (const file of ["config.json", "model.safetensors"]) {
    const response = await fetch(`/fixtures/models/llama/${file}`);
    await writeFileAtomic(`${MODEL}/${file}`, new Uint8Array(await response.arrayBuffer()));
  }
  return adapt(await loadModel(MODEL), lora({ rank: 4, targets: "all-linear", dropout: 0.2 }));
}

const runOptions = (extra: Partial<TrainOptions>): TrainOptions => ({
  train: patterns(),
  batchSize: 2,
  lengths: [16],
  steps: STEPS,
  padId: 0,
  seed: 3,
  optimizer: adamw({ lr: 1e-2 }),
  session: { backend: "wasm", threads: 2, worker: true },
  ...extra,
});

/** All trained numbers in one piece. */
function trainedBytes(model: AdaptedLm): Uint8Array {
  const values = [...model.parameters.values()]
    .filter(({ trainable }) => trainable)
    .flatMap(({ tensor }) => Array.from(tensor.data as Float32Array));
  return new Uint8Array(Float32Array.from(values).buffer);
}

/** Leaves a run in the middle of its sixth step, with a checkpoint of its fourth; the page is then reloaded. */
export function interrupted(): void {
  test("a run is under way when the page is reloaded", async () => {
    await remove("/runs");
    await makeDir("/runs");
    const whole = await fixtureModel();
    await train(whole, runOptions({}));
    await writeFileAtomic(EXPECTED, trainedBytes(whole));
    const model = await fixtureModel();
    await new Promise<void>((resolve, reject) => {
      const onEvent: TrainOptions["onEvent"] = (event) =>
        event.type === "step" && event.step === CUT_AFTER && resolve();
      train(model, runOptions({ runDir: RUN, saveEvery: 2, onEvent })).catch(reject);
    });
  });
}

/** In the reloaded page. */
export function resumed(): void {
  test("after a reload the run continues from the private file system, bit for bit", async () => {
    const model = await fixtureModel();
    let from = 0;
    const onEvent: TrainOptions["onEvent"] = (event) => {
      if (event.type === "resumed") from = event.step;
    };
    await train(model, runOptions({ runDir: RUN, saveEvery: 2, resume: true, onEvent }));
    equal(from, CUT_AFTER - 1, "the step of the newest checkpoint");
    const [actual, expected] = [trainedBytes(model), await readFile(EXPECTED)];
    equal(actual.length, expected.length, "bytes of trained numbers");
    equal(
      actual.findIndex((byte, at) => byte !== expected[at]),
      -1,
      "first byte that differs from the uninterrupted run's",
    );
    const { records, torn } = await readMetrics(`${RUN}/metrics.jsonl`);
    equal(torn, false, "the metrics end in a whole line");
    equal(
      records.map(({ step }) => step),
      Array.from({ length: STEPS }, (_, at) => at + 1),
      "steps in the metrics",
    );
    await remove("/runs");
    return `continued after step ${from}, ${actual.length / 4} numbers are equal`;
  });
}
