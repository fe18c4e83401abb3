import { z } from "zod";
import { vjp } from "../../autodiff/index.js";
import { TunesmithError } from "../../errors/index.js";
import { ops, type Value } from "../../graph/index.js";
import type { CausalLm, LmOutputs } from "../../models/index.js";
import { flatTargets, rowInputs, rowPass, tokenMask } from "../language-rows.js";
import { chunkLogits, type Head, headInputs, rowsPerChunk, sumOfChunks } from "../losses/head.js";
import { type NextTokenOptions, nextToken } from "../next-token.js";
import type { LayOptions, LossGraph, Objective, StepShape } from "../objective.js";
import { settingsOf } from "./options.js";

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
  /** The model to learn from; it is frozen, and has the student's vocabulary. */
  readonly teacher: CausalLm;
}

/**
 * Distillation (arXiv 1503.02531): the student's next-token distribution is drawn to the teacher's, at every trained token of
 * packed rows: α·T²·KL + (1 − α)·cross-entropy. The teacher runs in the same graph; logits of both exist a few rows at a time.
 *
 * Throws `config-invalid` for models of different vocabularies, and what `nextToken` throws.
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
  const { teacher } = options;
  const settings = settingsOf("distillation", distillationOptions, options);
  if (teacher.sizes.vocabSize !== student.sizes.vocabSize) {
    throw new TunesmithError(
      "config-invalid",
      `the teacher knows ${teacher.sizes.vocabSize} tokens, the student ${student.sizes.vocabSize}`,
      { fix: "choose two models with the same tokenizer" },
    );
  }
  const { scores: _, ...base } = nextToken(student, options);
  return {
    ...base,
    name: "distillation",
    identity: { ...base.identity, ...settings },
    lossGraph: (shape, how) => lossGraph(student, options, settings, shape, how),
  };
}

function lossGraph(
  student: CausalLm,
  { teacher, chunkRows }: DistillationOptions,
  settings: z.output<typeof distillationOptions>,
  shape: StepShape,
  how: LayOptions,
): LossGraph {
  const inputs = rowInputs(shape);
  const pass = rowPass(student, inputs, how);
  const taught = rowPass(teacher, inputs, { training: false });
  const { labels, weights } = flatTargets(inputs);
  // Two distributions and their difference exist per row.
  const rows = rowsPerChunk(labels.shape[0] as number, 2 * student.sizes.vocabSize, chunkRows);
  const head = (outputs: LmOutputs): Head => ({ ...outputs, chunkRows: rows });
  const loss = divergence(head(pass), head(taught), { labels, weights }, settings);
  return { loss, passes: [pass, taught], mask: tokenMask(inputs) };
}

/** α·T²·Σ w·KL + (1 − α)·Σ w·cross-entropy, over chunks of rows. */
function divergence(
  student: Head,
  teacher: Head,
  { labels, weights }: { readonly labels: Value; readonly weights: Value },
  { direction, temperature, alpha }: z.output<typeof distillationOptions>,
): Value {
  const { parameters, masks } = headInputs(student);
  const teacherMasks = headInputs(teacher).masks;
  return sumOfChunks(student, parameters, (chunk) => {
    const logits = chunkLogits(student, masks, chunk);
    const rows = ops.after(chunk.part(teacher.hidden), chunk.hidden);
    const given = ops.stopGradient(chunkLogits(teacher, teacherMasks, { ...chunk, hidden: rows }));
    const [own, other] = [logSoftmaxAt(logits, temperature), logSoftmaxAt(given, temperature)];
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
