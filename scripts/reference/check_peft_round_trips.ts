// For every folder of fixtures/peft: loads what PEFT wrote, moves its numbers, writes it again, and makes an adapter of the same
// method and options anew; PEFT must load both with the same logits. Fails, too, for a method of PEFT's that has no
// folder there. Needs the reference environment of requirements.txt; not part of the tests.
//
//   node scripts/run-ts.mjs scripts/reference/check_peft_round_trips.ts .cache/reference/bin/python [NAME ...]
import { mkdtempSync, readdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type AdaptedLm, adapt, loadAdapter, saveAdapter } from "../../src/methods/index.js";
import { peftMethodNames } from "../../src/methods/peft/mappings.js";
import { batchLogits, randomise } from "../../src/methods/testing/fixtures.js";
import { loadFolder } from "../../src/models/index.js";
import { openSafetensors, type Tensor } from "../../src/tensor/index.js";
import { type Job, loadWithPeft } from "./peft-jobs.js";

const root = process.env.TUNESMITH_ROOT ?? ".";
const [python, ...wanted] = process.argv.slice(2);
if (!python) {
  console.error(
    "usage: node scripts/run-ts.mjs scripts/reference/check_peft_round_trips.ts PYTHON [NAME ...]",
  );
  process.exit(2);
}
const work = mkdtempSync(join(tmpdir(), "tunesmith-peft-"));
const fixtures = join(root, "fixtures");
const names = readdirSync(join(fixtures, "peft"), { withFileTypes: true }).flatMap((entry) =>
  entry.isDirectory() && (wanted.length === 0 || wanted.includes(entry.name)) ? [entry.name] : [],
);

/** Cases whose options cannot be used anew as they are read. */
const ANEW: Readonly<Record<string, Readonly<Record<string, unknown>>>> = {
  // What a file started with is not in it: an odd rank has no paired start.
  "llama-hra-gs": { init: "random" },
  // A direction from data needs data.
  "llama-velora-once": { direction: "batch" },
};
/** PEFT computes a part of these itself, from bases of its own: an adapter made here is written under our name. */
const READ_ONLY: readonly string[] = ["frod"];
const MAY_MISS: Readonly<Record<string, string>> = {
  // PEFT writes the bases, as large as a weight, once for each module besides the shared ones: they are not repeated.
  randlora: "\\.randlora_[AB]\\.default$",
  // It looks for the shared bank at each module, also in folders of its own, which hold it once.
  vblora: "\\.vblora_vector_bank\\.default$",
};

/** Small enough for series that converge for small angles only. */
const NOISE = 0.1;

async function written(name: string, model: AdaptedLm, ids: Tensor, base: string): Promise<Job> {
  const adapter = join(work, name);
  const logits = await batchLogits(model, ids);
  await saveAdapter(model, adapter);
  return {
    ...{ name, base, adapter, given: { input_ids: ids } },
    logits: { ...logits, shape: [...ids.shape, logits.shape[1] as number] },
    mayMiss: MAY_MISS[model.adapters.get("default")?.adaptation.method.name ?? ""],
  };
}

let failures = 0;
const jobs: Job[] = [];
const seen = new Set<string>();
for (const name of names) {
  const folder = join(fixtures, "peft", name);
  const base = join(fixtures, "models", name.split("-")[0] as string);
  try {
    const expected = await openSafetensors(join(folder, "expected.safetensors"));
    const ids = await expected.read("input_ids");
    await expected.close();
    const plain = await loadFolder(base);
    const again = await loadAdapter(plain, folder);
    const adaptation = again.adapters.get("default")?.adaptation;
    if (!adaptation) throw new Error("no adapter");
    seen.add(adaptation.method.name);
    jobs.push(await written(`${name} again`, randomise(again, 7, NOISE), ids, base));
    if (READ_ONLY.includes(adaptation.method.name)) continue;
    const config = { ...adaptation.config, ...ANEW[name] };
    const anew = await adapt(plain, { ...adaptation, config }, { seed: 3 });
    jobs.push(await written(`${name} anew`, randomise(anew, 8, NOISE), ids, base));
  } catch (error) {
    failures++;
    console.log(`FAIL ${name}: ${error instanceof Error ? error.message : error}`);
  }
}
failures += await loadWithPeft(python, jobs, { root, work });
const absent = wanted.length > 0 ? [] : peftMethodNames.filter((name) => !seen.has(name));
for (const name of absent) console.log(`FAIL ${name}: fixtures/peft has no folder of it`);
console.log(`${failures + absent.length} failures`);
process.exit(failures + absent.length > 0 ? 1 : 0);
