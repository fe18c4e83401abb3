import { mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { packExamples, type TokenizedExample } from "../../data/index.js";
import { type AdaptedLm, adapt, lora, setActive } from "../../methods/index.js";
import {
  type CausalLm,
  defaultModelPath,
  loadFolder,
  loadModel,
  logitsOf,
  type Tokenizer,
} from "../../models/index.js";
import { rng } from "../../runtime/random/index.js";
import { createEvaluator, createStepper, fit, type Objective, type StepBatch, sgd } from "../index.js";
import {
  cpo,
  type DpoOptions,
  distillation,
  dpo,
  type FeedbackExample,
  kto,
  orpo,
  type PairExample,
  prepareObjective,
  simpo,
  withReference,
} from "./index.js";

const FIXTURE = (name: string) => new URL(`../../../fixtures/models/${name}`, import.meta.url).pathname;
const SESSION = { threads: 1 };

/** A model that has left its base; adapters with noise in them. */
async function model(targets: string[] = ["c_attn", "c_fc"]): Promise<AdaptedLm> {
  const lm = await adapt(await loadFolder(FIXTURE("gpt2")), lora({ rank: 2, alpha: 4, targets }));
  for (const { name, trainable, tensor } of lm.parameters.values())
    if (trainable) rng(1, name).fillNormal(tensor.data as Float32Array, 0, 0.2);
  return lm;
}

/** Prompt tokens without loss, answer tokens with one. */
const example = (prompt: number[], answer: number[]): TokenizedExample => ({
  ids: Int32Array.from([...prompt, ...answer]),
  lossMask: Uint8Array.from([...prompt.map(() => 0), ...answer.map(() => 1)]),
});

const PAIRS: PairExample[] = [
  { chosen: example([3, 9], [12, 40, 5]), rejected: example([3, 9], [8, 8]) },
  { chosen: example([50, 2, 31], [7]), rejected: example([50, 2, 31], [22, 60, 1, 4]) },
  { chosen: example([17], [33, 35]), rejected: example([17], [35, 33]) },
];
const PLAN = { batchSize: 2, lengths: [8], padId: 0 };

/** Log-probability of every token after the first, in plain loops. */
async function tokenLogs(lm: CausalLm, { ids }: TokenizedExample): Promise<number[]> {
  const logits = await logitsOf(lm, [...ids], SESSION);
  const vocab = logits.shape[1] as number;
  return [...ids].slice(1).map((id, at) => {
    const row = [...(logits.data as Float32Array).subarray(at * vocab, (at + 1) * vocab)];
    const most = Math.max(...row);
    return (row[id] as number) - most - Math.log(row.reduce((sum, x) => sum + Math.exp(x - most), 0));
  });
}

async function answerLogs(lm: CausalLm, row: TokenizedExample): Promise<number[]> {
  return (await tokenLogs(lm, row)).filter((_, at) => row.lossMask[at + 1] === 1);
}

const sum = (values: readonly number[]) => values.reduce((a, b) => a + b, 0);
const mean = (values: readonly number[]) => sum(values) / values.length;
const logSigmoid = (x: number) => -Math.log1p(Math.exp(-x));

async function evaluated(objective: Objective) {
  const evaluator = createEvaluator(objective, { session: SESSION });
  try {
    return await evaluator.run(objective.validation?.() ?? []);
  } finally {
    await evaluator.close();
  }
}

/** Compares the gradient along itself with the change of the loss. */
async function checkSlope(objective: Objective, tolerance = 0.02) {
  const stepper = createStepper(objective, { session: SESSION });
  const batches: StepBatch[] = [];
  for await (const batch of objective.validation?.() ?? []) batches.push(batch);
  const count = sum(batches.map((batch) => batch.count));
  const gradients = new Map<string, Float32Array>();
  for (const batch of batches) {
    const { gradients: part } = await stepper.run(batch, count, [0, 0]);
    for (const [name, values] of part) {
      const all = gradients.get(name) ?? new Float32Array(values.length);
      for (const [at, value] of values.entries()) all[at] = (all[at] as number) + value;
      gradients.set(name, all);
    }
  }
  await stepper.close();
  const norm = Math.sqrt(sum([...gradients.values()].map((values) => sum([...values].map((v) => v * v)))));
  expect(norm).toBeGreaterThan(0);
  const moved = async (distance: number) => {
    const shift = (by: number) => {
      for (const [name, values] of gradients) {
        const data = objective.model.parameters.get(name)?.tensor.data as Float32Array;
        for (const [at, value] of values.entries()) data[at] = (data[at] as number) + (by * value) / norm;
      }
    };
    shift(distance);
    const { loss } = await evaluated(objective);
    shift(-distance);
    return loss;
  };
  const step = 1e-2;
  const slope = ((await moved(step)) - (await moved(-step))) / (2 * step);
  expect(Math.abs(slope - norm) / norm).toBeLessThan(tolerance);
}

/** What the formulas are made of, for each pair. */
async function scoresOf(lm: AdaptedLm) {
  const reference = setActive(lm, []);
  return Promise.all(
    PAIRS.map(async ({ chosen, rejected }) => ({
      c: await answerLogs(lm, chosen),
      r: await answerLogs(lm, rejected),
      refC: await answerLogs(reference, chosen),
      refR: await answerLogs(reference, rejected),
    })),
  );
}
type Scores = Awaited<ReturnType<typeof scoresOf>>[number];

const perToken = ({ c, r, refC, refR }: Scores) => mean(c) - mean(refC) - (mean(r) - mean(refR));
const delta = ({ c, r, refC, refR }: Scores) => sum(c) - sum(refC) - (sum(r) - sum(refR));

describe.each<[string, Partial<DpoOptions>, (scores: Scores) => number]>([
  ["sigmoid", { beta: 0.3 }, (s) => -logSigmoid(0.3 * delta(s))],
  [
    "sigmoid, smoothed",
    { beta: 0.3, labelSmoothing: 0.2 },
    (s) => -0.8 * logSigmoid(0.3 * delta(s)) - 0.2 * logSigmoid(-0.3 * delta(s)),
  ],
  [
    "robust",
    { beta: 0.3, loss: "robust", labelSmoothing: 0.2 },
    (s) => (-0.8 * logSigmoid(0.3 * delta(s)) + 0.2 * logSigmoid(-0.3 * delta(s))) / 0.6,
  ],
  ["hinge", { beta: 0.3, loss: "hinge" }, (s) => Math.max(0, 1 - 0.3 * delta(s))],
  [
    "ipo",
    { beta: 0.3, loss: "ipo" },
    (s) => (mean(s.c) - mean(s.refC) - (mean(s.r) - mean(s.refR)) - 1 / 0.6) ** 2,
  ],
])("dpo, %s", (_, options, formula) => {
  test("equals its formula, and its gradient the slope", async () => {
    const lm = await model();
    const data = { ...PLAN, train: PAIRS, validation: PAIRS, reference: setActive(lm, []), ...options };
    const objective = dpo(lm, data);
    const scores = await scoresOf(lm);
    const found = await evaluated(objective);
    expect(found.loss).toBeCloseTo(mean(scores.map(formula)), 4);
    const margin = options.loss === "ipo" ? perToken : delta;
    expect(found.scores.margin).toBeCloseTo(mean(scores.map(margin)), 3);
    await checkSlope(objective);
  });
});

test("scores of the reference that were computed before give the same loss", async () => {
  const lm = await model();
  const reference = setActive(lm, []);
  const file = join(mkdtempSync(join(tmpdir(), "tunesmith-reference-")), "scores.json");
  const cached = { ...PLAN, file, fingerprint: "base" };
  const scored = await withReference(reference, PAIRS, cached);
  const live = await evaluated(dpo(lm, { ...PLAN, train: PAIRS, validation: PAIRS, reference }));
  const kept = await evaluated(dpo(lm, { ...PLAN, train: scored, validation: scored }));
  expect(kept.loss).toBeCloseTo(live.loss, 5);
  // The second time they are read, not computed.
  const { key, sums } = JSON.parse(readFileSync(file, "utf8")) as { key: string; sums: number[] };
  writeFileSync(file, JSON.stringify({ key, sums: sums.map((value) => value + 1) }));
  const again = await withReference(reference, PAIRS, cached);
  expect(again[0]?.reference?.chosen).toBeCloseTo((scored[0]?.reference?.chosen as number) + 1, 5);
  // For other rows they are computed again.
  const fewer = await withReference(reference, PAIRS.slice(1), cached);
  expect(fewer[0]?.reference?.chosen).toBeCloseTo(scored[1]?.reference?.chosen as number, 4);
});

test("dpo without a reference, and wrong options, are refused", async () => {
  const lm = await model();
  expect(() => dpo(lm, { ...PLAN, train: PAIRS })).toThrow(/no reference/);
  const reference = setActive(lm, []);
  expect(() => dpo(lm, { ...PLAN, train: PAIRS, reference, beta: -1 })).toThrow(/dpo.beta/);
});

test("orpo, simpo and cpo equal their formulas, and their gradients the slopes", async () => {
  const lm = await model();
  const scores = await scoresOf(lm);
  const odds = (p: number) => p - Math.log(1 - Math.exp(p));
  const [ofMeans, ofSums] = [({ c, r }: Scores) => mean(c) - mean(r), ({ c, r }: Scores) => sum(c) - sum(r)];
  const cases: [Objective, (s: Scores) => number, (s: Scores) => number][] = [
    [
      orpo(lm, { ...PLAN, train: PAIRS, validation: PAIRS, beta: 0.5 }),
      ({ c, r }) => -mean(c) - 0.5 * logSigmoid(odds(mean(c)) - odds(mean(r))),
      ofMeans,
    ],
    [
      simpo(lm, { ...PLAN, train: PAIRS, validation: PAIRS, beta: 2, gamma: 0.4 }),
      ({ c, r }) => -logSigmoid(2 * (mean(c) - mean(r)) - 0.4),
      ofMeans,
    ],
    [
      cpo(lm, { ...PLAN, train: PAIRS, validation: PAIRS, beta: 0.2, alpha: 0.7 }),
      ({ c, r }) => -logSigmoid(0.2 * (sum(c) - sum(r))) - 0.7 * mean(c),
      ofSums,
    ],
  ];
  for (const [objective, formula, margin] of cases) {
    const found = await evaluated(objective);
    expect(found.loss).toBeCloseTo(mean(scores.map(formula)), 4);
    expect(found.scores.margin).toBeCloseTo(mean(scores.map(margin)), 3);
    const ahead = scores.filter((one) => margin(one) > 0).length;
    expect(found.scores.preferenceAccuracy).toBeCloseTo(ahead / scores.length, 6);
    await checkSlope(objective);
  }
});

test("the gradient through an adapted head is right too, whatever the chunks", async () => {
  const lm = await model(["lm_head"]);
  const losses = [];
  for (const chunkRows of [3, 64]) {
    const objective = simpo(lm, { ...PLAN, train: PAIRS, validation: PAIRS, chunkRows });
    losses.push((await evaluated(objective)).loss);
    await checkSlope(objective);
  }
  expect(losses[0]).toBeCloseTo(losses[1] as number, 5);
});

const FEEDBACK: FeedbackExample[] = PAIRS.flatMap(({ chosen, rejected }, at) => [
  { answer: chosen, desirable: true },
  ...(at === 1 ? [] : [{ answer: rejected, desirable: false }]),
]);

test("kto equals its formula", async () => {
  const lm = await model();
  const reference = setActive(lm, []);
  const settings = { beta: 0.4, desirableWeight: 1.3, undesirableWeight: 0.8 };
  const objective = kto(lm, {
    ...PLAN,
    batchSize: 3,
    train: FEEDBACK,
    validation: FEEDBACK,
    reference,
    ...settings,
  });
  const ratio = async (row: TokenizedExample) =>
    sum(await answerLogs(lm, row)) - sum(await answerLogs(reference, row));
  const losses: number[] = [];
  for (const rows of [FEEDBACK.slice(0, 3), FEEDBACK.slice(3)]) {
    const others = await Promise.all(
      rows.map(({ answer }, at) => {
        const next = (rows[(at + 1) % rows.length] as FeedbackExample).answer;
        const [cut, from] = [answer.lossMask.indexOf(1), next.lossMask.indexOf(1)];
        return ratio(example([...answer.ids.slice(0, cut)], [...next.ids.slice(from)]));
      }),
    );
    const z = Math.max(0, mean(others));
    const sigmoid = (x: number) => 1 / (1 + Math.exp(-x));
    for (const { answer, desirable } of rows) {
      const r = await ratio(answer);
      losses.push(
        desirable
          ? settings.desirableWeight * (1 - sigmoid(settings.beta * (r - z)))
          : settings.undesirableWeight * (1 - sigmoid(settings.beta * (z - r))),
      );
    }
  }
  expect((await evaluated(objective)).loss).toBeCloseTo(mean(losses), 4);
});

test.each(["forward", "reverse"] as const)("distillation, %s, equals its formula", async (direction) => {
  const lm = await model();
  const teacher = setActive(lm, []);
  const rows = PAIRS.map(({ chosen }) => chosen);
  const packs = packExamples(rows, { length: 8 });
  const settings = { direction, temperature: 2, alpha: 0.7 };
  const plan = { batchSize: 2, lengths: [8], padId: 0, chunkRows: 5 };
  const objective = distillation(lm, { teacher, train: packs, validation: packs, ...plan, ...settings });
  const losses: number[] = [];
  for (const row of rows) {
    const [own, other] = [await logitsOf(lm, [...row.ids]), await logitsOf(teacher, [...row.ids])];
    const vocab = own.shape[1] as number;
    for (const [at, id] of [...row.ids].slice(1).entries()) {
      if (row.lossMask[at + 1] !== 1) continue;
      const logs = (data: Float32Array, t: number) => {
        const scaled = [...data.subarray(at * vocab, (at + 1) * vocab)].map((x) => x / t);
        const norm = Math.log(sum(scaled.map(Math.exp)));
        return scaled.map((x) => x - norm);
      };
      const [p, q] = [logs(other.data as Float32Array, 2), logs(own.data as Float32Array, 2)];
      const kl = (a: number[], b: number[]) => sum(a.map((x, i) => Math.exp(x) * (x - (b[i] as number))));
      const distance = direction === "forward" ? kl(p, q) : kl(q, p);
      const nll = -(logs(own.data as Float32Array, 1)[id] as number);
      losses.push(0.7 * 4 * distance + 0.3 * nll);
    }
  }
  expect((await evaluated(objective)).loss).toBeCloseTo(mean(losses), 4);
  await checkSlope(objective);
});

test("an objective by name scores its pairs with the reference once, when that is asked for", async () => {
  const base = await loadModel(await defaultModelPath());
  const lm = await adapt(base, lora({ rank: 2 }));
  const rows = ["One", "Two", "Three"].map((prompt) => ({
    kind: "preference" as const,
    prompt,
    chosen: " and more",
    rejected: " or less of it",
  }));
  const context = {
    ...{ model: lm, tokenizer: base.tokenizer as Tokenizer, train: rows, validation: rows.slice(1) },
    ...{ batchSize: 2, length: 32, padId: 0, tokens: {}, reference: setActive(lm, []) },
  };
  const live = await prepareObjective("dpo", context, { beta: 0.2 });
  const once = await prepareObjective("dpo", { ...context, referenceScores: {} }, { beta: 0.2 });
  expect(once.objective.lossGraph(once.shape, { training: true }).passes.length).toBe(1);
  expect(live.objective.lossGraph(live.shape, { training: true }).passes.length).toBe(2);
  expect((await evaluated(once.objective)).loss).toBeCloseTo((await evaluated(live.objective)).loss, 5);
  const blank = { ...context, train: [{ kind: "text" as const, text: "One two" }] };
  const short = { ...blank, validation: [{ kind: "text" as const, text: "" }] };
  await expect(prepareObjective("sft", short)).rejects.toThrow(/^held-out data: no example is left/);
  await expect(prepareObjective("dpo", context, { betta: 1 })).rejects.toThrow(/dpo/);
  await expect(prepareObjective("distillation", context)).rejects.toThrow(/no teacher/);
  await expect(prepareObjective("kto", context)).rejects.toThrow(/preference row/);
  await expect(prepareObjective("dppo", context)).rejects.toThrow(/unknown objective/);
});

test("dpo learns which answer is better", async () => {
  const lm = await adapt(
    await loadFolder(FIXTURE("gpt2")),
    lora({ rank: 4, alpha: 8, targets: "all-linear" }),
  );
  const data = { ...PLAN, train: PAIRS, validation: PAIRS, reference: setActive(lm, []) };
  const losses: number[] = [];
  const result = await fit(dpo(lm, { ...data, beta: 1 }), {
    steps: 12,
    optimizer: sgd({ lr: 0.5 }),
    session: SESSION,
    onEvent: (event) => event.type === "step" && losses.push(event.loss),
  });
  // At the start policy and reference are the same.
  expect(losses[0]).toBeCloseTo(Math.LN2, 4);
  expect(result.evaluation?.scores.preferenceAccuracy).toBe(1);
  expect(result.evaluation?.loss).toBeLessThan(0.6);
});
