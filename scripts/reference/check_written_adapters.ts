// Writes adapter folders of every kind with this library and has PEFT load them: nothing missing, nothing unexpected,
// the same logits. Needs the reference environment of requirements.txt; not part of the tests.
//
//   node scripts/run-ts.mjs scripts/reference/check_written_adapters.ts .cache/reference/bin/python [NAME ...]
import { spawnSync } from "node:child_process";
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type AdaptedLm, adapt, lora, saveAdapter } from "../../src/methods/index.js";
import { loadFolder, logitsOf } from "../../src/models/index.js";
import { rng } from "../../src/runtime/index.js";
import { tensor, writeSafetensors } from "../../src/tensor/index.js";

type Options = NonNullable<Parameters<typeof lora>[0]>;
interface Case {
  readonly model: "gpt2" | "llama";
  readonly options: Options;
}

const root = process.env.TUNESMITH_ROOT ?? ".";
const [python, ...wanted] = process.argv.slice(2);
if (!python) {
  console.error(
    "usage: node scripts/run-ts.mjs scripts/reference/check_written_adapters.ts PYTHON [NAME ...]",
  );
  process.exit(2);
}

const BOTH: Readonly<Record<string, Options>> = {
  plain: {},
  gaussian: { init: "gaussian" },
  orthogonal: { init: "orthogonal" },
  rslora: { rslora: true, alpha: 3 },
  dora: { dora: true },
  "all-linear": { targets: "all-linear" },
  pissa: { init: "pissa", targets: "all-linear" },
  "pissa-niter": { init: "pissa_niter_4" },
  "pissa-rslora": { init: "pissa", rslora: true },
  olora: { init: "olora" },
  "save-lm-head": { modulesToSave: ["lm_head"] },
  tokens: { trainableTokens: [3, 17, 40] },
  layers: { layers: [1] },
};
const CASES: Readonly<Record<string, Case>> = {
  ...Object.fromEntries(
    (["gpt2", "llama"] as const).flatMap((model) =>
      Object.entries(BOTH).map(([name, options]) => [`${model}-${name}`, { model, options }]),
    ),
  ),
  "gpt2-patterns": {
    model: "gpt2",
    options: {
      targets: ["c_attn", "c_fc"],
      rankPattern: { "h\\.0\\.attn\\.c_attn": 2 },
      alphaPattern: { c_fc: 20 },
    },
  },
  "llama-pissa-patterns": {
    model: "llama",
    options: { init: "pissa", rankPattern: { "layers.1.self_attn.q_proj": 2 }, alphaPattern: { v_proj: 20 } },
  },
  "gpt2-bias-all": { model: "gpt2", options: { bias: "all" } },
  "gpt2-bias-adapted": { model: "gpt2", options: { bias: "adapted" } },
  "gpt2-lora-bias": { model: "gpt2", options: { loraBias: true } },
  "gpt2-embedding": { model: "gpt2", options: { targets: ["wte", "wpe", "c_fc"] } },
  "llama-embedding": { model: "llama", options: { targets: ["embed_tokens", "o_proj"] } },
  "llama-dora-embedding": { model: "llama", options: { dora: true, targets: ["embed_tokens", "k_proj"] } },
  "llama-head": { model: "llama", options: { targets: ["lm_head", "q_proj"] } },
  "llama-save-embedding": { model: "llama", options: { modulesToSave: ["embed_tokens", "input_layernorm"] } },
  "llama-regex": { model: "llama", options: { targets: "model\\.layers\\.[01]\\.mlp\\.(gate|up)_proj" } },
  "llama-exclude": {
    model: "llama",
    options: { targets: ["q_proj", "v_proj"], exclude: ["layers.0.self_attn.q_proj"] },
  },
};

function randomise(model: AdaptedLm): void {
  for (const { name, trainable, tensor: held } of model.parameters.values()) {
    if (!trainable) continue;
    const data = held.data as Float32Array;
    const noise = rng(7, name).fillNormal(new Float32Array(data.length), 0, 0.2);
    const scales = name.endsWith("magnitude_vector");
    for (let at = 0; at < data.length; at++)
      data[at] =
        (data[at] as number) * (scales ? 1 + (noise[at] as number) : 1) +
        (scales ? 0 : (noise[at] as number));
  }
}

const IDS = Array.from({ length: 12 }, (_, at) => (at * 17 + 3) % 70);
const work = mkdtempSync(join(tmpdir(), "tunesmith-written-"));
let failures = 0;
for (const [name, { model: base, options }] of Object.entries(CASES)) {
  if (wanted.length > 0 && !wanted.includes(name)) continue;
  const baseFolder = join(root, "fixtures/models", base);
  const model = await adapt(await loadFolder(baseFolder), lora({ rank: 4, alpha: 8, ...options }));
  randomise(model);
  const folder = join(work, name);
  await saveAdapter(model, folder);
  const logits = await logitsOf(model, IDS);
  const input = join(work, `${name}.input.safetensors`);
  await writeSafetensors(
    input,
    new Map([
      ["input_ids", tensor("int64", [1, IDS.length], IDS)],
      ["logits", tensor("float32", [1, ...logits.shape], logits.data as Float32Array)],
    ]),
  );
  const script = join(root, "scripts/reference/check_peft_loads.py");
  const largest = (logits.data as Float32Array).reduce((most, value) => Math.max(most, Math.abs(value)), 1);
  const run = spawnSync(python, [script, baseFolder, folder, input, "--tolerance", String(1e-5 * largest)], {
    encoding: "utf8",
  });
  const line = run.stdout.trim().split("\n").at(-1) ?? "";
  const report = line.startsWith("{") ? JSON.parse(line) : undefined;
  if (!report?.ok) failures++;
  console.log(
    report
      ? `${report.ok ? "ok  " : "FAIL"} ${name}: difference ${report.maxDifference.toExponential(1)} of ${largest.toFixed(1)}, missing ${report.missing.length}, unexpected ${report.unexpected.length}`
      : `FAIL ${name}: ${run.stderr.trim().split("\n").at(-1)}`,
  );
}
console.log(`${failures} failures`);
process.exit(failures > 0 ? 1 : 0);
