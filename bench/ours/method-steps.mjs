// Step time of every method against LoRA's at equal rank, in one process: blocks of LoRA's steps stand between those of the others,
// and each method is compared with the LoRA block before and after it.
//   node bench/ours/method-steps.mjs [--only vera,boft] [--steps 8] [--profile PREFIX]
// With --profile it also says on the screen how many milliseconds of a step each kind of operator takes; in this thread, as ONNX
// Runtime writes its profile when a session is released.
import { parseArgs } from "node:util";
import { packExamples } from "tunesmith/data";
import { applyMethod, calibrate, methodNamed, methodNames, trainableCount } from "tunesmith/methods";
import { initModel } from "tunesmith/models";
import { adamw, fit, nextToken, stepCost } from "tunesmith/training";
import { timeByOperator } from "./profile.mjs";

const { values } = parseArgs({
  options: { only: { type: "string" }, steps: { type: "string", default: "8" }, profile: { type: "string" } },
});
const [WIDTH, LENGTH, BATCH, RANK] = [384, 128, 4, 8];
const WARMUP = 2;
const steps = Number(values.steps) + WARMUP;
/** What some methods must be told on this model, and sizes that go with LoRA's rank. */
const OPTIONS = {
  alora: { invocation: [17] },
  "orthogonal-adaptation": { conceptId: "a" },
  adalora: { initRank: RANK, targetRank: RANK },
  vblora: { vectors: 64, vectorLength: 64, rank: 4 },
  c3a: { blockSize: 64 },
  road: { groupSize: 64 },
  glora: { ranks: [RANK] },
  hydra: { parallelRank: RANK / 2, sequentialRank: RANK / 2 },
  map: { options: { rank: RANK } },
  // Its update has summands x ruleRank x rank terms.
  kadaptation: { summands: RANK, rank: 1 },
};
/** Needs adapters or a trained model to begin with. */
const LEFT_OUT = new Set(["lora", "xlora", "lt-sft"]);

const base = initModel(
  {
    ...{ model_type: "llama", vocab_size: 4096, hidden_size: WIDTH, intermediate_size: 1024 },
    ...{ num_hidden_layers: 6, num_attention_heads: 6, max_position_embeddings: LENGTH },
  },
  { seed: 1 },
);
const examples = Array.from({ length: BATCH * 4 }, (_, row) => ({
  ids: Int32Array.from({ length: LENGTH }, (_, at) => (row * 131 + at * 17) % 4096),
  lossMask: new Uint8Array(LENGTH).fill(1, 1),
}));
const plan = {
  train: packExamples(examples, { length: LENGTH, strategy: "none" }),
  ...{ lengths: [LENGTH], batchSize: BATCH, padId: 0 },
};
const session = { threads: 2, ...(values.profile ? {} : { worker: true }) };

const names = values.only?.split(",") ?? methodNames.filter((name) => !LEFT_OUT.has(name));
const rows = [];
let before = await secondsOf("lora");
for (const name of names) {
  try {
    const own = await secondsOf(name);
    const after = await secondsOf("lora");
    const work = {
      products: own.productFlops / after.productFlops,
      passes: own.passBytes / after.passBytes,
      operators: own.operators / after.operators,
    };
    const seconds = { seconds: own.median, lora: (before.median + after.median) / 2 };
    rows.push({ name, ...seconds, ...work, trained: own.trained });
    before = after;
  } catch (error) {
    rows.push({ name, failed: `${error.code ?? error}: ${error.message.split("\n")[0]}` });
  }
  const { seconds, lora, products, passes, operators, failed } = rows.at(-1);
  const over = [seconds / lora, products, passes, operators].map((ratio) => ratio?.toFixed(2));
  console.error(
    name,
    failed ??
      `${seconds.toFixed(3)} s: ${over[0]} of LoRA's time, ${over[1]} of its products, ${over[2]} of its passes, ${over[3]} of its operators`,
  );
}
console.log(JSON.stringify({ rows, loraTrained: before.trained }));

async function secondsOf(name) {
  const entry = methodNamed(name);
  const known = entry.options.shape;
  const options = {
    ...(entry.kinds.includes("linear") && "targets" in known ? { targets: "all-linear" } : {}),
    ...("rank" in known ? { rank: RANK } : {}),
    ...OPTIONS[name],
  };
  const statistics = entry.needs(options);
  const calibration =
    statistics.length > 0
      ? await calibrate(nextToken(base, plan), { statistics, batches: 2, session })
      : undefined;
  const model = await applyMethod(base, name, options, { seed: 0, calibration });
  const times = [];
  let last = performance.now();
  await fit(nextToken(model, plan), {
    steps,
    optimizer: adamw({ lr: 1e-4, maxGradNorm: 1 }),
    session: values.profile ? { ...session, profile: `${values.profile}-${name}` } : session,
    onEvent({ type }) {
      if (type !== "step") return;
      times.push((performance.now() - last) / 1000);
      last = performance.now();
    },
  });
  if (values.profile) console.error(profileText(name));
  const later = times.slice(WARMUP).sort((a, b) => a - b);
  const cost = stepCost(nextToken(model, plan), { batch: BATCH, length: LENGTH });
  return { median: later[later.length >> 1], trained: trainableCount(model), ...cost };
}

function profileText(name) {
  const lines = Object.entries(timeByOperator(`${values.profile}-${name}`))
    .slice(0, 16)
    .map(([kind, { ms, count }]) => `  ${kind} ${ms.toFixed(1)} ms in ${count.toFixed(0)}`);
  return `${name}\n${lines.join("\n")}`;
}
