// Pre-trains the small language model that ships in assets/default-model, with Tunesmith's own engine.
//   npm run pretrain -- [--out assets/default-model] [--run runs/pretrain] [--steps N] [--threads 2]
// A run that was interrupted continues from its last checkpoint when started again.
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { cpus } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { packExamples, tokenizeExamples, trainBpe } from "tunesmith/data";
import { freeze, unfreeze } from "tunesmith/methods";
import { initModel, tokenizerFromJson } from "tunesmith/models";
import { adamw, noDecayGroup, train, wsd } from "tunesmith/training";
import { collectCorpus } from "./corpus.mjs";
import { evaluateShipped } from "./evaluate.mjs";
import { config, contextLength, endOfText, seed, training, vocabSize } from "./settings.mjs";
import { writeCard, writeModel, writeProvenance } from "./write.mjs";

const root = fileURLToPath(new URL("../../", import.meta.url));
const { values } = parseArgs({
  options: {
    out: { type: "string", default: join(root, "assets/default-model") },
    run: { type: "string", default: join(root, "runs/pretrain") },
    steps: { type: "string", default: String(training.steps) },
    threads: { type: "string", default: "2" },
  },
});
const steps = Number(values.steps);
mkdirSync(values.run, { recursive: true });

const corpus = collectCorpus();
console.log(
  `corpus: ${corpus.provenance.bytes.train} bytes to train on, ${corpus.provenance.bytes.heldOut} held out`,
);
const tokenizerJson = trainBpe(corpus.train, { vocabSize, specialTokens: [endOfText] });
const tokenizer = await tokenizerFromJson(tokenizerJson, { eos_token: endOfText });
const { packs, tokens } = pack(corpus.train);
const validation = pack(corpus.heldOut).packs;
console.log(`${tokens} tokens in ${packs.length} rows of ${contextLength}`);

const model = await unfreeze(initModel(config, { seed, tokenizer }));
const parameters = [...model.parameters.values()].reduce((sum, { tensor }) => sum + tensor.data.length, 0);
console.log(`${parameters} parameters, ${steps} steps of ${training.batchSize * contextLength} tokens`);

const clock = openClock(join(values.run, "seconds.json"));
const result = await train(model, {
  train: packs,
  validation,
  batchSize: training.batchSize,
  lengths: [contextLength],
  steps,
  padId: tokenizer.eosId ?? 0,
  seed,
  runDir: values.run,
  resume: true,
  config: { corpus: corpus.provenance.sha256 },
  evalEvery: 1000,
  saveEvery: 200,
  session: { threads: Number(values.threads) },
  optimizer: adamw({
    lr: training.learningRate,
    betas: training.betas,
    weightDecay: training.weightDecay,
    maxGradNorm: training.maxGradNorm,
    groups: [noDecayGroup()],
    schedule: wsd({
      totalSteps: steps,
      warmupSteps: training.warmupSteps,
      decaySteps: training.decaySteps,
      decayType: "1-sqrt",
    }),
  }),
  onEvent: report,
});

await writeModel(values.out, freeze(model), tokenizerJson);
const evaluation = await evaluateShipped(values.out, corpus, root);
const record = {
  seed,
  parameters,
  training: { ...training, steps, contextLength, tokens: steps * training.batchSize * contextLength },
  corpus: { tokens, ...corpus.provenance },
  wallSeconds: Math.round(clock.seconds()),
  machine: { cpu: cpus()[0]?.model ?? "unknown", threads: Number(values.threads) },
  versions: { node: process.version, ...versions("onnxruntime-node") },
  evaluation,
};
await writeCard(values.out, record);
await writeProvenance(values.out, record);
console.log(
  JSON.stringify({
    ...evaluation,
    samples: undefined,
    finalLoss: result.finalLoss,
    seconds: record.wallSeconds,
  }),
);

function pack(texts) {
  const rows = texts.map((text) => ({ kind: "text", text }));
  const { examples, report: counts } = tokenizeExamples(rows, tokenizer, { maxLength: contextLength });
  return { packs: packExamples(examples, { length: contextLength }), tokens: counts.tokens };
}

function report(event) {
  if (event.type === "step" && event.step % 20 === 0) {
    const { step, loss, gradNorm, tokensPerSecond, remainingSeconds = 0 } = event;
    console.log(
      `step ${step}: loss ${loss.toFixed(3)}, norm ${gradNorm.toFixed(2)}, ${Math.round(tokensPerSecond)} tokens/s, ${Math.round(remainingSeconds)} s left`,
    );
  } else if (event.type === "evaluation") {
    console.log(
      `step ${event.step}: held-out loss ${event.loss.toFixed(4)}, perplexity ${event.perplexity.toFixed(2)}`,
    );
  } else if (event.type === "checkpoint") clock.save();
}

/** Seconds of training over all parts of an interrupted run. */
function openClock(path) {
  const before = existsSync(path) ? JSON.parse(readFileSync(path, "utf8")).seconds : 0;
  const start = performance.now();
  const seconds = () => before + (performance.now() - start) / 1000;
  return { seconds, save: () => writeFileSync(path, JSON.stringify({ seconds: seconds() })) };
}

function versions(name) {
  const { version } = JSON.parse(readFileSync(join(root, "node_modules", name, "package.json"), "utf8"));
  return { [name]: version };
}
