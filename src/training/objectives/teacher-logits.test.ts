import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { packExamples, type TokenizedExample } from "../../data/index.js";
import { type AdaptedLm, adapt, lora, setActive } from "../../methods/index.js";
import { defaultModelPath, loadFolder, loadModel, logitsOf, type Tokenizer } from "../../models/index.js";
import { rng } from "../../runtime/random/index.js";
import { encodeSafetensors } from "../../tensor/index.js";
import { createEvaluator, fit, type Objective, sgd, type TrainEvent } from "../index.js";
import {
  distillation,
  openTeacherLogits,
  prepareObjective,
  teacherLogitsOf,
  writeTeacherLogits,
} from "./index.js";

const FIXTURE = new URL("../../../fixtures/models/gpt2", import.meta.url).pathname;
const SESSION = { threads: 1 };
const PLAN = { batchSize: 2, lengths: [8], padId: 0 };
const folder = mkdtempSync(join(tmpdir(), "tunesmith-teacher-"));

/** A student that has left its teacher, the base. */
async function student(): Promise<AdaptedLm> {
  const lm = await adapt(await loadFolder(FIXTURE), lora({ rank: 2, alpha: 4, targets: ["c_attn", "c_fc"] }));
  for (const { name, trainable, tensor } of lm.parameters.values())
    if (trainable) rng(1, name).fillNormal(tensor.data as Float32Array, 0, 0.2);
  return lm;
}

const example = (prompt: number[], answer: number[]): TokenizedExample => ({
  ids: Int32Array.from([...prompt, ...answer]),
  lossMask: Uint8Array.from([...prompt.map(() => 0), ...answer.map(() => 1)]),
});
const ROWS = [example([3, 9], [12, 40, 5]), example([50, 2, 31], [7]), example([17], [33, 35])];
const PACKS = packExamples(ROWS, { length: 8 });

async function evaluated(objective: Objective): Promise<number> {
  const evaluator = createEvaluator(objective, { session: SESSION });
  try {
    return (await evaluator.run(objective.validation?.() ?? [])).loss;
  } finally {
    await evaluator.close();
  }
}

async function trained(objective: (lm: AdaptedLm) => Objective) {
  const lm = await student();
  const losses: number[] = [];
  const onEvent = (event: TrainEvent) => event.type === "step" && losses.push(event.loss);
  await fit(objective(lm), { steps: 4, optimizer: sgd({ lr: 0.1 }), session: SESSION, onEvent });
  return losses;
}

test("all logits of a file teach what the teacher itself does, whatever the packing", async () => {
  const lm = await student();
  const teacher = setActive(lm, []);
  const file = join(folder, "all.safetensors");
  const top = lm.sizes.vocabSize;
  await writeTeacherLogits(file, teacher, [...ROWS].reverse(), { ...PLAN, top, session: SESSION });
  const teacherLogits = await openTeacherLogits(file);
  const data = { ...PLAN, train: PACKS, validation: PACKS };
  for (const direction of ["forward", "reverse"] as const) {
    const settings = { direction, temperature: 2, alpha: 0.7 };
    const live = await trained((own) =>
      distillation(own, { ...data, ...settings, teacher: setActive(own, []) }),
    );
    const stored = await trained((own) => distillation(own, { ...data, ...settings, teacherLogits }));
    expect(live.length).toBe(4);
    stored.forEach((loss, at) => void expect(loss).toBeCloseTo(live[at] as number, 5));
    expect(await evaluated(distillation(lm, { ...data, ...settings, teacherLogits }))).toBeCloseTo(
      await evaluated(distillation(lm, { ...data, ...settings, teacher })),
      5,
    );
  }
  await teacherLogits.close();
});

test("the likeliest tokens' divergence equals its formula", async () => {
  const lm = await student();
  const teacher = setActive(lm, []);
  const file = join(folder, "top.safetensors");
  const [top, temperature] = [3, 2];
  await writeTeacherLogits(file, teacher, ROWS, { ...PLAN, top, session: SESSION });
  const teacherLogits = await openTeacherLogits(file);
  const logSoftmax = (values: number[]) => {
    const norm = Math.log(values.reduce((sum, value) => sum + Math.exp(value), 0));
    return values.map((value) => value - norm);
  };
  const losses: number[] = [];
  for (const row of ROWS) {
    const [own, other] = [await logitsOf(lm, [...row.ids]), await logitsOf(teacher, [...row.ids])];
    const vocab = own.shape[1] as number;
    for (let at = 0; at + 1 < row.ids.length; at++) {
      if (row.lossMask[at + 1] !== 1) continue;
      const scaled = ({ data }: typeof own) =>
        [...(data as Float32Array).subarray(at * vocab, (at + 1) * vocab)].map((x) => x / temperature);
      const given = scaled(other);
      const best = [...given.keys()]
        .sort((a, b) => (given[b] as number) - (given[a] as number))
        .slice(0, top);
      const p = logSoftmax(best.map((id) => given[id] as number));
      const q = logSoftmax(scaled(own));
      const kl = p.reduce((sum, log, k) => sum + Math.exp(log) * (log - (q[best[k] as number] as number)), 0);
      losses.push(temperature ** 2 * kl);
    }
  }
  const objective = distillation(lm, {
    ...PLAN,
    train: PACKS,
    validation: PACKS,
    teacherLogits,
    temperature,
    chunkRows: 5,
  });
  expect(await evaluated(objective)).toBeCloseTo(losses.reduce((a, b) => a + b, 0) / losses.length, 4);
  expect(() => distillation(lm, { ...PLAN, train: PACKS, teacherLogits, direction: "reverse" })).toThrow(
    /reverse/,
  );
  expect(() => distillation(lm, { ...PLAN, train: PACKS, teacherLogits, teacher })).toThrow(/two teachers/);
  expect(() => distillation(lm, { ...PLAN, train: PACKS })).toThrow(/no teacher/);
  // A row that the file has not seen.
  const unknown = packExamples([example([1, 2], [3])], { length: 8 });
  await expect(
    evaluated(distillation(lm, { ...PLAN, validation: unknown, teacherLogits })),
  ).rejects.toMatchObject({
    code: "data-invalid",
  });
  await teacherLogits.close();
});

test("files and options that do not fit are refused", async () => {
  const other = join(folder, "other.safetensors");
  writeFileSync(other, encodeSafetensors([]));
  await expect(openTeacherLogits(other)).rejects.toMatchObject({ code: "file-corrupt" });
  const lm = await student();
  await expect(writeTeacherLogits(other, lm, ROWS, { ...PLAN, top: 1e6 })).rejects.toThrow(/top 1000000/);
});

test("a run's logits are written once, and are of one teacher", async () => {
  const base = await loadModel(await defaultModelPath());
  const rows = ["One and two", "Two and three", "Three"].map((text) => ({ kind: "text" as const, text }));
  const context = {
    ...{ tokenizer: base.tokenizer as Tokenizer, train: rows.slice(1), validation: rows.slice(0, 1) },
    ...{ batchSize: 2, length: 16, padId: 0, tokens: {} },
  };
  const file = join(folder, "run.safetensors");
  await expect(teacherLogitsOf(context, file)).rejects.toThrow(/no teacher to write it/);
  const how = { top: 4, fingerprint: "a", session: SESSION };
  await (await teacherLogitsOf({ ...context, teacher: base }, file, how)).close();
  // From the file alone.
  const teacherLogits = await teacherLogitsOf(context, file);
  const given = { ...context, model: base, teacherLogits };
  const { objective } = await prepareObjective("distillation", given, { alpha: 0.5 });
  expect(await evaluated(objective)).toBeGreaterThan(0);
  await teacherLogits.close();
  await expect(teacherLogitsOf(context, file, { fingerprint: "b" })).rejects.toThrow(/another teacher/);
  await expect(teacherLogitsOf(context, file, { top: 5 })).rejects.toThrow(/4 logits per token/);
});
