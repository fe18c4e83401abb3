import { existsSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { beforeAll, expect, test } from "vitest";
import type { HeadEfficiency } from "../../src/methods/index.js";
import { tinyText, writeTinyModel } from "../support/tiny-model.js";
import { json, run, start } from "./run.js";

const folder = mkdtempSync(join(tmpdir(), "tunesmith-cli-"));
const TRAIN = [
  "train",
  "--model",
  "model",
  "--data",
  "data.txt",
  "--length",
  "32",
  "--lr",
  "1e-2",
  "--seed",
  "3",
];
const LORA = [...TRAIN, "--method", "lora", "--rank", "4", "--targets", "q_proj,v_proj,down_proj"];
const bytes = (name: string) => readFileSync(join(folder, name));

beforeAll(async () => {
  await writeTinyModel(join(folder, "model"));
  writeFileSync(join(folder, "data.txt"), tinyText(300));
}, 60_000);

test("train, evaluate, generate, merge, export and inspect one adapter", async () => {
  const trained = await json([...LORA, "--steps", "30", "--out", "adapter"], folder);
  expect(trained.perplexityAfter).toBeLessThan(0.7 * trained.perplexityBefore);
  expect(trained.receipt).toMatchObject({ sitesMatched: 6, sitesChanged: 6 });
  for (const file of [
    "adapter_config.json",
    "adapter_model.safetensors",
    "tunesmith.json",
    ".run/metrics.jsonl",
  ])
    expect(existsSync(join(folder, "adapter", file))).toBe(true);
  expect(JSON.parse(String(bytes("adapter/adapter_config.json"))).target_modules).toEqual([
    "q_proj",
    "v_proj",
    "down_proj",
  ]);

  const data = ["--data", "data.txt", "--length", "32"];
  const base = await json(["eval", "--model", "model", ...data], folder);
  const adapted = await json(["eval", "--model", "model", "--adapter", "adapter", ...data], folder);
  expect(adapted.loss).toBeLessThan(base.loss);
  expect(adapted.perplexity).toBeCloseTo(Math.exp(adapted.loss), 9);
  // Everything is predicted but the first token, "the".
  expect(adapted.bytes).toBe(tinyText(300).length - 3);
  expect(adapted.bitsPerByte).toBeCloseTo((adapted.loss * adapted.tokens) / Math.LN2 / adapted.bytes, 9);

  const generated = await json(
    ["generate", "--model", "model", "--adapter", "adapter", "--prompt", "the cat", "--max-tokens", "8"],
    folder,
  );
  expect(generated.tokens).toBe(8);
  const shown = await run(
    ["generate", "--model", "model", "--adapter", "adapter", "--prompt", "the cat", "--max-tokens", "8"],
    folder,
  );
  expect(shown).toMatchObject({ code: 0, stdout: `the cat${generated.text}\n` });

  const merged = await json(["merge", "--model", "model", "--adapter", "adapter", "--out", "merged"], folder);
  expect(merged.maxDiff).toBeLessThan(1e-4);
  const mergedLoss = (await json(["eval", "--model", "merged", ...data], folder)).loss;
  expect(mergedLoss).toBeCloseTo(adapted.loss, 5);

  const exported = await json(
    ["export", "--model", "model", "--adapter", "adapter", "--format", "onnx", "--out", "onnx"],
    folder,
  );
  expect(exported.maxDiff).toBeLessThan(1e-4);
  expect(existsSync(join(folder, exported.path))).toBe(true);

  const inspected = await json(["inspect", "model", "--targets", "q_proj"], folder);
  expect(inspected.matched).toEqual(["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"]);
  expect(inspected.targets).toMatchObject({ "all-linear": 14, q_proj: 2 });
}, 60_000);

test("inspect measures norms in attention on a text", async () => {
  const command = ["inspect", "model", "--adapter", "adapter"];
  const { stdout } = await run([...command, "--prompt", "the cat sat on the mat", "--json"], folder);
  const { heads, tokens }: { tokens: number; heads: HeadEfficiency[] } = JSON.parse(
    stdout.trimEnd().split("\n").at(-1) ?? "",
  );
  expect(heads.length).toBeGreaterThan(1);
  for (const { gQ, gK, threshold, below, suggestedMaxScale } of heads) {
    expect(threshold).toBeCloseTo(Math.sqrt(Math.log(tokens)), 6);
    expect(below).toBe(Math.max(gQ, gK) <= threshold);
    expect(suggestedMaxScale).toBeGreaterThan(0);
  }
  expect((await run(command, folder)).stderr).toMatch(/--adapter and --prompt belong together/);
});

test("the exported ONNX file is a model again, and the one with a cache runs", async () => {
  await json(["export", "--model", "model", "--out", "plain"], folder);
  const data = ["--data", "data.txt", "--length", "32"];
  const [own, file] = [
    await json(["eval", "--model", "model", ...data], folder),
    await json(["eval", "--model", "plain", ...data], folder),
  ];
  expect(file.loss).toBeCloseTo(own.loss, 5);
  const cached = await json(["export", "--model", "model", "--out", "cached", "--cache"], folder);
  expect(cached.path).toBe(join("cached", "onnx", "model.onnx"));
  expect(cached.maxDiff).toBeLessThan(1e-4);
  const generate = (model: string) =>
    json(["generate", "--model", model, "--prompt", "a dog", "--max-tokens", "8"], folder);
  expect((await generate("cached")).text).toBe((await generate("model")).text);
});

test("a folder for transformers.js, adapter weights as inputs, a Hugging Face folder, each with a card", async () => {
  const folded = await json(
    [
      "export",
      "--model",
      "model",
      "--adapter",
      "adapter",
      "--layout",
      "transformers.js",
      "--variants",
      "fp16",
      "--out",
      "site",
    ],
    folder,
  );
  expect(folded.path).toBe(join("site", "onnx", "model.onnx"));
  expect(folded.maxDiff).toBeLessThan(1e-4);
  for (const file of [
    "onnx/model_fp16.onnx",
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
  ])
    expect(folded.files, file).toContain(join("site", file));
  const card = String(bytes("site/README.md"));
  expect(card).toContain("library_name: transformers.js");
  expect(card).toContain("## Receipt");
  // What the adapter's own card says of its training.
  expect(card).toContain("## Data");
  const optional = ["--adapter", "adapter", "--adapter-weights", "optional", "--out", "optional"];
  const held = await json(["export", "--model", "model", ...optional], folder);
  expect(held.files).toContain(join("optional", "model.onnx_adapter"));
  await json(
    [
      "export",
      "--model",
      "model",
      "--adapter",
      "adapter",
      "--format",
      "onnx-adapter",
      "--out",
      "own.onnx_adapter",
    ],
    folder,
  );
  expect(bytes("own.onnx_adapter")).toEqual(bytes("optional/model.onnx_adapter"));
  const whole = await json(
    ["export", "--model", "model", "--adapter", "adapter", "--format", "safetensors", "--out", "whole"],
    folder,
  );
  expect(whole.files).toContain(join("whole", "model.safetensors"));
  expect(String(bytes("whole/README.md"))).toContain("trained with `lora`");
});

test("an adapter made for a model fits its ONNX file, and merges into another", async () => {
  await json([...LORA, "--steps", "5", "--out", "short"], folder);
  await json(["export", "--model", "model", "--out", "base-onnx"], folder);
  const merged = await json(
    ["merge", "--model", "base-onnx", "--adapter", "short", "--out", "merged-onnx"],
    folder,
  );
  expect(merged.maxDiff).toBeLessThan(1e-4);
  const data = ["--data", "data.txt", "--length", "32"];
  const adapted = await json(["eval", "--model", "model", "--adapter", "short", ...data], folder);
  expect((await json(["eval", "--model", "merged-onnx", ...data], folder)).loss).toBeCloseTo(adapted.loss, 5);
});

test("generation ends at a stop text, which may hold a comma or a space", async () => {
  const ask = [
    "generate",
    "--model",
    "model",
    "--adapter",
    "adapter",
    "--prompt",
    "the",
    "--max-tokens",
    "12",
  ];
  const { text } = await json(ask, folder);
  const space = await json([...ask, "--stop", "no, such text", "--stop", " "], folder);
  expect(text).toContain(" ");
  expect(space.text).toBe(text.slice(0, text.indexOf(" ")));
});

test("full fine-tuning writes a model", async () => {
  const trained = await json(
    [...TRAIN, "--method", "full", "--select", "mlp", "--steps", "10", "--out", "whole"],
    folder,
  );
  expect(trained.receipt).toMatchObject({ method: "full", tensorsChanged: 6 });
  const { loss } = await json(["eval", "--model", "whole", "--data", "data.txt"], folder);
  expect(loss).toBeLessThan((await json(["eval", "--model", "model", "--data", "data.txt"], folder)).loss);
});

test("a dry run says what would be trained and writes nothing", async () => {
  const plan = await json([...LORA, "--epochs", "2", "--out", "nothing", "--dry-run"], folder);
  expect(plan.trainableParameters).toBe(2 * (4 * 64 + 4 * 48 + 4 * 96));
  expect(plan.sites).toHaveLength(6);
  expect(plan.steps).toBe(2 * plan.stepsPerEpoch);
  expect(plan.memory).toMatchObject({ estimate: true });
  expect(existsSync(join(folder, "nothing"))).toBe(false);
});

test("a configuration file repeats a run; flags win", async () => {
  writeFileSync(
    join(folder, "run.yaml"),
    "model: model\ndata: data.txt\nlength: 32\nrank: 2\ntargets: q_proj,v_proj\nsteps: 3\nlr: 0.01\nout: by-file\n",
  );
  await json(["train", "--config", "run.yaml", "--rank", "3"], folder);
  expect(JSON.parse(String(bytes("by-file/adapter_config.json"))).r).toBe(3);
  await json(["train", "--config", "by-file/tunesmith.json", "--out", "again"], folder);
  expect(bytes("again/adapter_model.safetensors")).toEqual(bytes("by-file/adapter_model.safetensors"));
});

test("mistakes are explained, with an exit code and no stack", async () => {
  const fails = async (...args: string[]) => {
    const { code, stderr } = await run(args, folder);
    expect(stderr).not.toMatch(/^\s+at /m);
    return `${code} ${stderr}`;
  };
  const out = ["--out", "x"];
  expect(await fails(...TRAIN, ...out, "--targets", "q_prj")).toMatch(
    /^2 [\s\S]*error\[target-not-found\]: target 'q_prj'[\s\S]*fix: near names: q_proj/,
  );
  expect(await fails(...TRAIN, ...out, "--rnk", "3")).toMatch(
    /^2 .*unknown option '--rnk'\n {2}fix: did you mean --rank/,
  );
  expect(await fails(...TRAIN, ...out, "--rank", "0")).toMatch(/^2 .*--rank: 0/);
  expect(await fails(...TRAIN, ...out, "--patience", "2")).toMatch(
    /^2 .*--patience[\s\S]*fix: .*--eval-every/,
  );
  expect(await fails(...TRAIN, ...out, "--eval-every", "2", "--validation-share", "0")).toMatch(
    /^2 .*--eval-every[\s\S]*fix: .*--validation/,
  );
  expect(await fails(...TRAIN, "--method", "full", "--out", "model")).toMatch(
    /^1 error\[file-write-failed\]: --out model/,
  );
  expect(await fails("train", "--model", "model", ...out)).toMatch(/^2 .*--data is missing/);
  expect(await fails("eval", "--model", "absent", "--data", "data.txt")).toMatch(
    /^1 error\[file-not-found\]: absent/,
  );
  writeFileSync(join(folder, "broken.onnx"), "not a model");
  expect(await fails("inspect", "broken.onnx")).toMatch(/^1 error\[file-corrupt\]: .*broken\.onnx/);
  writeFileSync(join(folder, "bad.jsonl"), '{"text": "a"}\n{"text": \n');
  expect(await fails("eval", "--model", "model", "--data", "bad.jsonl")).toMatch(
    /^1 error\[data-invalid\]: bad\.jsonl.*2/,
  );
  const { code, stdout } = await run(["eval", "--model", "absent", "--data", "data.txt", "--json"], folder);
  expect([code, JSON.parse(stdout)]).toMatchObject([1, { error: { code: "file-not-found" } }]);
}, 60_000);

async function stopped(out: string, signal: "SIGKILL" | "SIGINT") {
  const args = [...LORA, "--steps", "200", "--save-every", "10", "--out", out];
  const { child, finished } = start(args, folder);
  const checkpoint = join(folder, out, ".run/checkpoints/step-000020");
  while (!existsSync(checkpoint) && child.exitCode === null) await new Promise((done) => setTimeout(done, 5));
  child.kill(signal);
  return { args, result: await finished };
}

test("a killed or interrupted run continues and writes the same bytes", async () => {
  const whole = run([...LORA, "--steps", "200", "--out", "straight"], folder);
  const killed = await stopped("killed", "SIGKILL");
  expect(killed.result.code).toBe(null);
  expect(existsSync(join(folder, "killed/adapter_model.safetensors"))).toBe(false);
  const interrupted = await stopped("interrupted", "SIGINT");
  expect(interrupted.result.code).toBe(130);
  expect(interrupted.result.stderr).toMatch(/error\[cancelled\][\s\S]*continue with --resume/);
  expect((await whole).code).toBe(0);
  for (const { args } of [killed, interrupted]) {
    const { code, stderr } = await run([...args, "--resume"], folder);
    expect([code, stderr]).toEqual([0, expect.stringMatching(/continuing after step \d+/)]);
  }
  const wanted = bytes("straight/adapter_model.safetensors");
  expect(bytes("killed/adapter_model.safetensors")).toEqual(wanted);
  expect(bytes("interrupted/adapter_model.safetensors")).toEqual(wanted);
}, 60_000);

test("methods lists names, papers and options", async () => {
  const { methods } = await json(["methods"], folder);
  const [lora] = methods;
  expect(lora).toMatchObject({ name: "lora", paper: "2106.09685" });
  expect(lora?.options).toMatchObject({ rank: { default: 8 }, targets: {} });
});

test("quickstart tunes, saves, reads back and exports", async () => {
  const args = ["quickstart", "--model", "model", "--data", "data.txt", "--steps", "20", "--out", "quick"];
  const result = await json(args, folder);
  expect(Object.keys(result)).toEqual([
    ...["seconds", "steps", "tokensPerSecond", "perplexityBefore", "perplexityAfter"],
    ...["reloadMaxDiff", "mergedMaxDiff", "adapterDir", "onnxPath"],
  ]);
  expect(result.perplexityAfter).toBeLessThan(0.8 * result.perplexityBefore);
  expect(result.reloadMaxDiff).toBe(0);
  expect(result.mergedMaxDiff).toBeLessThan(1e-4);
  expect(existsSync(join(result.adapterDir, "adapter_model.safetensors"))).toBe(true);
  expect(existsSync(result.onnxPath)).toBe(true);
});
