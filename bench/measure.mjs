// Child processes of both sides, and the models they share.
import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

const here = fileURLToPath(new URL(".", import.meta.url));
const cache = join(here, "..", ".cache");

/** A Python with torch, transformers and peft; made once when none is named. */
export function peerPython(say) {
  const named = process.env.TUNESMITH_BENCH_PYTHON;
  if (named) return named;
  const python = join(cache, "reference", "bin", "python");
  if (existsSync(python)) return python;
  say("making a Python environment for the peer (once, some minutes)");
  execFileSync("python3", ["-m", "venv", join(cache, "reference")]);
  const requirements = join(here, "..", "scripts", "reference", "requirements.txt");
  execFileSync(python, ["-m", "pip", "install", "-q", "-r", requirements], { stdio: "inherit" });
  return python;
}

/** Base models of random weights that both sides load: folder by preset. */
export function makeModels(python, say) {
  const made = {};
  for (const preset of ["gpt2-124m", "l6d384"]) {
    const folder = join(cache, "bench-models", preset);
    made[preset] = folder;
    if (existsSync(join(folder, "config.json"))) continue;
    say(`making ${preset}`);
    mkdirSync(folder, { recursive: true });
    run(python, [
      join(here, "peers", "torch_lora.py"),
      "--preset",
      preset,
      "--save-model",
      folder,
      "--steps",
      "0",
    ]);
  }
  return made;
}

function run(command, args, env = {}) {
  const done = spawnSync(command, args, {
    encoding: "utf8",
    env: { ...process.env, ...env },
    maxBuffer: 2 ** 28,
  });
  if (done.status !== 0) throw new Error(`${command} ${args.join(" ")} failed:\n${done.stderr}`);
  return done.stdout;
}

const flags = (options) =>
  Object.entries(options).flatMap(([name, value]) =>
    value === true ? [`--${name}`] : value === false ? [] : [`--${name}`, String(value)],
  );

const lastJson = (text) => JSON.parse(text.trim().split("\n").at(-1));

/** One run of bench/ours/<script>. */
export const ours = (options, script = "lora.mjs") =>
  lastJson(run(process.execPath, [join(here, "ours", script), ...flags(options)]));

/** One run of a TypeScript program over the sources, with its settings as JSON. */
export const oursFromSource = (settings, script) =>
  lastJson(
    run(process.execPath, [
      join(here, "..", "scripts", "run-ts.mjs"),
      join(here, "ours", script),
      JSON.stringify(settings),
    ]),
  );

/** One run of a peer, by default PyTorch's language model. */
export const peer = (python, options, script = "torch_lora.py") =>
  lastJson(run(python, [join(here, "peers", script), ...flags(options)], { HF_HUB_OFFLINE: "1" }));

/** A convolutional network of random weights that both sides load. */
export function makeConvNet(python, say) {
  const folder = join(cache, "bench-models", "resnet18");
  if (existsSync(join(folder, "config.json"))) return folder;
  say("making resnet18");
  mkdirSync(folder, { recursive: true });
  run(python, [join(here, "peers", "torch_conv.py"), "--model", folder, "--make"]);
  return folder;
}

export const median = (list) => list.toSorted((a, b) => a - b)[Math.floor(list.length / 2)];

/** Runs both in turn, `rounds` times each, so that a slow phase of the machine hits both; returns their reports. */
export function alternate(rounds, ...runs) {
  const results = runs.map(() => []);
  for (let round = 0; round < rounds; round++)
    for (const [at, run] of runs.entries()) results[at].push(run());
  return results;
}

/** A folder for files of one measurement, removed afterwards. */
export function withScratch(use) {
  const folder = mkdtempSync(join(tmpdir(), "tunesmith-bench-"));
  try {
    return use(folder);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
