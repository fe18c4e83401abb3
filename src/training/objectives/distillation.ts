import { z } from "zod";
import { vjp } from "../../autodiff/index.js";
import type { Pack } from "../../data/index.js";
import { TunesmithError } from "../../errors/index.js";
import { input, ops, type Value } from "../../graph/index.js";
import type { CausalLm, LmOutputs } from "../../models/index.js";
import { type Tensor, tensor } from "../../tensor/index.js";
import { flatTargets, rowInputs, rowPass, tokenMask } from "../language-rows.js";
import {
  chunkLogits,
  type Head,
  type HeadChunk,
  headInputs,
  rowsPerChunk,
  sumOfChunks,
} from "../losses/head.js";
import { type NextTokenOptions, nextToken } from "../next-token.js";
import type { LayOptions, LossGraph, Objective, StepBatch, StepShape } from "../objective.js";
import { settingsOf } from "./options.js";
import type { TeacherLogits } from "./teacher-logits.js";

/** Options of `distillation` as data. */
export const distillationOptions = z.strictObject({
  direction: z
    .enum(["forward", "reverse"])
    .default("forward")
    .describe(
      "forward: KL(teacher, student), covers the teacher; reverse: KL(student, teacher), seeks its peaks",
    ),
  temperature: z.number().positive().default(1).describe("both models' logits are divided by it"),
  alpha: z
    .number()
    .min(0)
    .max(1)
    .default(1)
    .describe("weight of the divergence; the rest is the cross-entropy of the text"),
});

export interface DistillationOptions extends NextTokenOptions, z.input<typeof distillationOptions> {
  /** The model to learn from; it is frozen, and has the student's vocabulary. This, or `teacherLogits`. */
  readonly teacher?: CausalLm | undefined;
  /** What it thought of these rows before, from a file (`openTeacherLogits`). Of its likeliest tokens only `forward` can be learnt. */
  readonly teacherLogits?: TeacherLogits | undefined;
}

/**
 * Distillation (arXiv 1503.02531): the student's next-token distribution is drawn to the teacher's, at every trained token of
 * packed rows: α·T²·KL + (1 − α)·cross-entropy. The teacher runs in the same graph, with logits of both a few rows at a time, or
 * comes from a file. Of its likeliest tokens alone, their probabilities are taken to sum to 1.
 *
 * Throws `config-invalid` for no teacher or two, for different vocabularies and for `reverse` with likeliest tokens only, and what
 * `nextToken` throws; in training `data-invalid` for rows that the file lacks.
 *
 * @example
 * ```ts
 * import type { Pack } from "tunesmith/data";
 * import type { CausalLm } from "tunesmith/models";
 * import { adamw, distillation, fit } from "tunesmith/training";
 * export const tune = (student: CausalLm, teacher: CausalLm, train: readonly Pack[]) => {
 *   const plan = { batchSize: 4, lengths: [128], padId: 0 };
 *   const objective = distillation(student, { teacher, train, ...plan, temperature: 2, alpha: 0.9 });
 *   return fit(objective, { steps: 100, optimizer: adamw({ lr: 1e-3 }) });
 * };
 * ```
 */
export function distillation(student: CausalLm, options: DistillationOptions): Objective<CausalLm> {
  const { teacherLogits: file, train = [], validation = [] } = options;
  const settings = settingsOf("distillation", distillationOptions, options);
  checkTeacher(student, options, settings.direction);
  const { scores: _, ...base } = nextToken(student, options);
  const { validation: held } = base;
  return {
    ...base,
    ...(file
      ? {
          batches: (from, seed) => withLogits(base.batches(from, seed), train, file),
          ...(held ? { validation: () => withLogits(iteratorOf(held()), validation, file) } : {}),
        }
      : {}),
    name: "distillation",
    identity: { ...base.identity, ...settings, ...(file ? { top: file.top } : {}) },
    lossGraph: (shape, how) => lossGraph(student, options, settings, shape, how),
  };
}

function checkTeacher(
  student: CausalLm,
  { teacher, teacherLogits }: DistillationOptions,
  direction: "forward" | "reverse",
): void {
  if ((teacher === undefined) === (teacherLogits === undefined)) {
    throw new TunesmithError(
      "config-invalid",
      `distillation has ${teacher ? "two teachers" : "no teacher"}`,
      {
        fix: "give either `teacher`, a model, or `teacherLogits`, a file of its logits",
      },
    );
  }
  const known = teacher?.sizes.vocabSize ?? teacherLogits?.vocabSize;
  if (known !== student.sizes.vocabSize) {
    throw new TunesmithError(
      "config-invalid",
      `the teacher knows ${known} tokens, the student ${student.sizes.vocabSize}`,
      { fix: "choose two models with the same tokenizer" },
    );
  }
  if (teacherLogits && teacherLogits.top < teacherLogits.vocabSize && direction === "reverse") {
    throw new TunesmithError(
      "config-invalid",
      `reverse needs the teacher's logits of all tokens; ${teacherLogits.name} has the ${teacherLogits.top} likeliest`,
      { fix: "use the direction forward, or write the file with all of them" },
    );
  }
}

const LOGITS = "teacher_logits";
const IDS = "teacher_ids";

const iteratorOf = (batches: Iterable<StepBatch> | AsyncIterable<StepBatch>) =>
  Symbol.asyncIterator in batches ? batches[Symbol.asyncIterator]() : batches[Symbol.iterator]();

/** Batches with the teacher's logits of their rows; tokens without a loss have zeros. */
async function* withLogits(
  batches: Iterator<StepBatch> | AsyncIterator<StepBatch>,
  packs: readonly Pack[],
  file: TeacherLogits,
): AsyncGenerator<StepBatch, undefined> {
  for (;;) {
    const { value: batch, done } = await batches.next();
    if (done) return;
    const { batch: rows, length } = batch.shape as { batch: number; length: number };
    const logits = new Float32Array(rows * length * file.top);
    const ids = file.top < file.vocabSize ? new Int32Array(logits.length) : undefined;
    for (const [row, pack] of (batch.rows ?? []).entries()) {
      let start = row * length;
      for (const example of packs[Number(pack)]?.examples ?? []) {
        const found = await file.read(example);
        let token = 0;
        for (let at = 0; at + 1 < example.ids.length; at++) {
          if (example.lossMask[at + 1] !== 1) continue;
          const part = (from: Tensor) =>
            (from.data as Float32Array | Int32Array).subarray(token * file.top, (token + 1) * file.top);
          logits.set(part(found.logits), (start + at) * file.top);
          if (found.ids) ids?.set(part(found.ids), (start + at) * file.top);
          token++;
        }
        start += example.ids.length;
      }
    }
    const shape = [rows * length, file.top];
    const fed = {
      [LOGITS]: tensor("float32", shape, logits),
      ...(ids ? { [IDS]: tensor("int32", shape, ids) } : {}),
    };
    yield { ...batch, feeds: { ...batch.feeds, ...fed } };
  }
}

function lossGraph(
  student: CausalLm,
  { teacher, teacherLogits, chunkRows }: DistillationOptions,
  settings: z.output<typeof distillationOptions>,
  shape: StepShape,
  how: LayOptions,
): LossGraph {
  const inputs = rowInputs(shape);
  const pass = rowPass(student, inputs, how);
  const taught = teacher && rowPass(teacher, inputs, { training: false });
  const { labels, weights } = flatTargets(inputs);
  const tokens = labels.shape[0] as number;
  // Two distributions and their difference exist per row.
  const rows = rowsPerChunk(tokens, 2 * student.sizes.vocabSize, how.chunkRows ?? chunkRows);
  const head = (outputs: LmOutputs): Head => ({ ...outputs, chunkRows: rows });
  const teaching = taught ? inGraph(head(taught)) : fromFile(teacherLogits as TeacherLogits, tokens);
  const loss = divergence(head(pass), teaching, { labels, weights }, settings);
  return { loss, passes: taught ? [pass, taught] : [pass], mask: tokenMask(inputs) };
}

/** The teacher's logits of a chunk, and whose they are if not every token's. */
type Teaching = (chunk: HeadChunk) => { readonly logits: Value; readonly ids?: Value };

function inGraph(teacher: Head): Teaching {
  const { masks } = headInputs(teacher);
  return (chunk) => {
    const rows = ops.after(chunk.part(teacher.hidden), chunk.hidden);
    return { logits: ops.stopGradient(chunkLogits(teacher, masks, { ...chunk, hidden: rows })) };
  };
}

function fromFile({ top, vocabSize }: TeacherLogits, tokens: number): Teaching {
  const logits = input(LOGITS, "float32", [tokens, top]);
  const ids = top < vocabSize ? input(IDS, "int32", [tokens, top]) : undefined;
  return (chunk) => ({
    logits: ops.stopGradient(chunk.part(logits)),
    ...(ids ? { ids: ops.cast(chunk.part(ids), "int64") } : {}),
  });
}

/** α·T²·Σ w·KL + (1 − α)·Σ w·cross-entropy, over chunks of rows. */
function divergence(
  student: Head,
  teaching: Teaching,
  { labels, weights }: { readonly labels: Value; readonly weights: Value },
  { direction, temperature, alpha }: z.output<typeof distillationOptions>,
): Value {
  const { parameters, masks } = headInputs(student);
  return sumOfChunks(student, parameters, (chunk) => {
    const logits = chunkLogits(student, masks, chunk);
    const given = teaching(chunk);
    const every = logSoftmaxAt(logits, temperature);
    const own = given.ids ? ops.gatherElements(every, given.ids, 1) : every;
    const other = logSoftmaxAt(given.logits, temperature);
    const [from, to] = direction === "forward" ? [other, own] : [own, other];
    const distance = ops.reduceSum(ops.mul(ops.exp(from), ops.sub(from, to)), [1], false);
    let each = ops.mul(distance, alpha * temperature ** 2);
    if (alpha < 1) {
      const targets = ops.unsqueeze(ops.max(chunk.part(labels), 0), 1);
      const picked = ops.squeeze(ops.gatherElements(ops.logSoftmax(logits), targets, 1), 1);
      each = ops.sub(each, ops.mul(picked, 1 - alpha));
    }
    const loss = ops.reduceSum(ops.mul(each, chunk.part(weights)), undefined, false);
    const wrt = [chunk.hidden, ...parameters];
    const back = vjp([{ output: loss, gradient: ops.full([], 1, "float32") }], wrt, [chunk.hidden]);
    return { loss, gradients: back.map((value, at) => value ?? ops.zerosLike(wrt[at] as Value)) };
  });
}

const logSoftmaxAt = (logits: Value, temperature: number): Value =>
  ops.logSoftmax(temperature === 1 ? logits : ops.div(logits, temperature));
