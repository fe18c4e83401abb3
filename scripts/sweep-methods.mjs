// Learning rates by method: every method of the catalog on the shipped model over this repository's sources, by its held-out
// loss after a short run. Writes docs/data/method-sweep.json. The best rate depends on model, data and length of the run, so these
// figures compare methods; they are not defaults.
//   npm run sweep -- [--only lora,vera] [--steps 40]
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { loadDataset, paddingId, prepareRows, splitDataset } from "tunesmith/data";
import { applyMethod, calibrate, methodNamed, methodNames } from "tunesmith/methods";
import { defaultModelPath, loadModel } from "tunesmith/models";
import { adamw, createEvaluator, createSchedule, fit, nextToken } from "tunesmith/training";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const { values } = parseArgs({
  options: {
    only: { type: "string" },
    steps: { type: "string", default: "40" },
    seed: { type: "string", default: "0" },
  },
});
const RATES = [3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1];
/** Options that fit a model of width 160, for methods whose defaults are for large ones. */
const OPTIONS = {
  boft: { blockSize: 4, factors: 2 },
  oft: { blockSize: 8 },
  vera: { rank: 64 },
  pvera: { rank: 64 },
  uora: { rank: 64 },
};
const steps = Number(values.steps);
const session = { threads: 2, worker: true };

const base = await loadModel(await defaultModelPath());
const dataset = await loadDataset(join(root, "src"), { maxBytes: 600_000 });
const { train, validation } = splitDataset(dataset, { validation: 0.1, seed: 1 });
const rows = (part) => prepareRows(part, base.tokenizer, { length: 64 });
const [learnt, held] = [rows(train), rows(validation)];
const plan = {
  train: learnt.packs,
  validation: held.packs.slice(0, 48),
  lengths: [64],
  batchSize: 8,
  padId: paddingId(base.tokenizer),
};

const record = join(root, "docs", "data", "method-sweep.json");
const sweep = existsSync(record) ? JSON.parse(readFileSync(record, "utf8")).methods : {};
for (const name of values.only?.split(",") ?? methodNames) {
  const figures = await ratesOf(name);
  const best = figures.filter(({ loss }) => Number.isFinite(loss)).sort((a, b) => a.loss - b.loss)[0];
  console.error(
    name,
    best ?? "nothing trains",
    figures.map(({ lr, loss }) => `${lr}:${loss?.toFixed(4)}`).join(" "),
  );
  sweep[name] = figures;
  write(record, { steps, batch: "8 x 64", seed: Number(values.seed), methods: sorted(sweep) });
}

async function ratesOf(name) {
  const figures = [];
  for (const lr of RATES) {
    try {
      figures.push({ lr, ...(await run(name, lr)) });
    } catch (error) {
      figures.push({ lr, failed: error.code ?? String(error) });
      if (error.code === "config-invalid" || error.code === "target-unsupported") break;
    }
    // Beyond the best rate the loss rises; two worse ones in a row end the search.
    const losses = figures.map(({ loss }) => loss ?? Number.POSITIVE_INFINITY);
    const best = Math.min(...losses);
    if (losses.length > 2 && losses.slice(-2).every((loss) => loss > best)) break;
  }
  return figures;
}

async function run(name, lr) {
  const entry = methodNamed(name);
  const options = { ...(name === "full" ? {} : { targets: "all-linear" }), ...OPTIONS[name] };
  const statistics = entry.needs(options);
  const calibration =
    statistics.length > 0
      ? await calibrate(nextToken(base, plan), { statistics, batches: 8, session })
      : undefined;
  const model = await applyMethod(base, name, options, { seed: Number(values.seed), calibration });
  const objective = nextToken(model, plan);
  const schedule = createSchedule({ type: "cosine", totalSteps: steps, warmupSteps: 4 });
  const started = performance.now();
  await fit(objective, {
    steps,
    optimizer: adamw({ lr, schedule, maxGradNorm: 1 }),
    seed: Number(values.seed),
    session,
  });
  const seconds = (performance.now() - started) / 1000;
  const evaluator = createEvaluator(objective, { session });
  const { loss } = await evaluator.run(objective.validation());
  await evaluator.close();
  const parameters = [...model.parameters.values()].reduce(
    (sum, { trainable, tensor }) => sum + (trainable ? tensor.data.length : 0),
    0,
  );
  return { loss, parameters, secondsPerStep: seconds / steps };
}

function write(file, value) {
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, `${JSON.stringify(value, undefined, 2)}\n`);
}

function sorted(object) {
  return Object.fromEntries(Object.entries(object).sort(([a], [b]) => (a < b ? -1 : 1)));
}
