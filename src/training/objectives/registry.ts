import { z } from "zod";
import { fileExists } from "#io";
import {
  type Layout,
  type PreparedRows,
  type PrepareOptions,
  prepareRows,
  type Row,
  type TokenizeOptions,
  tasksOf,
} from "../../data/index.js";
import { TunesmithError } from "../../errors/index.js";
import { type CausalLm, nearest, type Tokenizer } from "../../models/index.js";
import { balancedOrder, type TaskBalance } from "../balanced-order.js";
import { nextToken } from "../next-token.js";
import type { Objective, StepShape } from "../objective.js";
import { distillation, distillationOptions } from "./distillation.js";
import { kto, ktoOptions } from "./kto.js";
import { type Judged, type PairExample, tokenizeFeedback, tokenizePairs } from "./pairs.js";
import { cpo, dpo, orpo, type PreferenceData, simpo } from "./preference.js";
import { cpoOptions, dpoOptions, orpoOptions, simpoOptions } from "./preference-losses.js";
import { type ReferenceOptions, withReference } from "./reference.js";
import { rowLengths } from "./row-lengths.js";
import {
  openTeacherLogits,
  type TeacherLogits,
  type WriteTeacherOptions,
  writeTeacherLogits,
} from "./teacher-logits.js";

/** What an objective of a language model is made from. */
export interface ObjectiveContext {
  readonly model: CausalLm;
  readonly tokenizer: Tokenizer;
  readonly train: readonly Row[];
  readonly validation: readonly Row[];
  /** Rows, or pairs of them, per batch. */
  readonly batchSize: number;
  /** Tokens per row at most. */
  readonly length: number;
  readonly padId: number;
  readonly tokens: Omit<TokenizeOptions, "maxLength">;
  readonly packing?: PrepareOptions["packing"];
  /** Batches hold equally many rows of each task; rows say which they are of. Of objectives over texts and answers. */
  readonly balance?: Omit<TaskBalance, "tasks"> | undefined;
  /** The model as it was before its training, for objectives that stay near it. */
  readonly reference?: CausalLm | undefined;
  /** Compute the reference's scores once, before the training; with a file they are kept there. Default: in every step. */
  readonly referenceScores?: Pick<ReferenceOptions, "file" | "fingerprint" | "session"> | undefined;
  /** The model to learn from, or a file of its logits. */
  readonly teacher?: CausalLm | undefined;
  readonly teacherLogits?: TeacherLogits | undefined;
}

/** An objective over rows, and what the rows came to. */
export interface PreparedObjective {
  readonly objective: Objective<CausalLm>;
  /** Examples of an epoch, and tokens of each of its rows. */
  readonly examples: number;
  readonly rowTokens: readonly number[];
  readonly lengths: readonly number[];
  /** The largest batch. */
  readonly shape: StepShape;
  readonly batchesPerEpoch: number;
  readonly trainedTokens: number;
  readonly heldOutTokens: number;
  /** Examples cut or lost at `length`. */
  readonly truncated: number;
  readonly eosMissing: boolean;
}

/** An objective by name, with its options as data. */
export interface ObjectiveEntry {
  readonly name: string;
  readonly summary: string;
  readonly paper: string | undefined;
  /** Layouts of the rows it learns from. */
  readonly layouts: readonly Layout[];
  readonly options: z.ZodObject;
  readonly needsReference?: boolean;
  readonly needsTeacher?: boolean;
  readonly prepare: (
    context: ObjectiveContext,
    options: Readonly<Record<string, unknown>>,
  ) => PreparedObjective | Promise<PreparedObjective>;
}

const TEXT: readonly Layout[] = ["text", "completion", "alpaca", "chat"];

function packed(
  { tokenizer, train, validation, batchSize, length, padId, tokens, packing, balance }: ObjectiveContext,
  make: (plan: Parameters<typeof nextToken>[1]) => Objective<CausalLm>,
): PreparedObjective {
  const how = { ...tokens, length, ...(packing ? { packing } : {}) };
  const parts = balance && byTask(train, tokenizer, how);
  const own = parts ?? prepareRows(train, tokenizer, how);
  const balanced = parts && { ...balance, tasks: parts.tasks };
  const order = balanced && balancedOrder(balanced, { batchSize, rows: own.packs.length });
  const held = validation.length > 0 ? heldOut(() => prepareRows(validation, tokenizer, how)) : undefined;
  const lengths = [...new Set([...own.lengths, ...(held?.lengths ?? [])])].sort((a, b) => a - b);
  const plan = { train: own.packs, validation: held?.packs, batchSize, lengths, padId };
  const objective = make({ ...plan, balance: balanced });
  const fits = (tokenCount: number) => own.lengths.find((size) => size >= tokenCount) ?? 0;
  const perLength = new Map<number, number>();
  for (const pack of own.packs) perLength.set(fits(pack.tokens), (perLength.get(fits(pack.tokens)) ?? 0) + 1);
  return {
    objective,
    examples: own.packs.length,
    rowTokens: own.packs.map((pack) => pack.tokens),
    lengths: own.lengths,
    shape: { batch: order?.rows ?? batchSize, length: Math.max(...own.lengths) },
    batchesPerEpoch:
      order?.batchesPerEpoch ??
      [...perLength.values()].reduce((sum, rows) => sum + Math.ceil(rows / batchSize), 0),
    trainedTokens: own.report.trainedTokens,
    heldOutTokens: held?.report.tokens ?? 0,
    truncated: own.report.truncated,
    eosMissing: own.report.eosMissing,
  };
}

/** Rows of each task by themselves, so that no packed row is of two. */
function byTask(rows: readonly Row[], tokenizer: Tokenizer, how: PrepareOptions) {
  const names = tasksOf(rows);
  const parts = [...new Set(names)].map((task) => {
    const own = rows.filter((_, at) => names[at] === task);
    return { task, ...prepareRows(own, tokenizer, how) };
  });
  const sum = (of: (report: PreparedRows["report"]) => number) =>
    parts.reduce((total, { report }) => total + of(report), 0);
  return {
    packs: parts.flatMap(({ packs }) => packs),
    tasks: parts.flatMap(({ task, packs }) => packs.map(() => task)),
    lengths: [...new Set(parts.flatMap(({ lengths }) => lengths))].sort((a, b) => a - b),
    report: {
      trainedTokens: sum(({ trainedTokens }) => trainedTokens),
      truncated: sum(({ truncated }) => truncated),
      eosMissing: parts.some(({ report }) => report.eosMissing),
    },
  };
}

/** What is wrong with held-out rows must not read as if it were with those to train on. */
function heldOut<T>(prepare: () => T): T {
  try {
    return prepare();
  } catch (error) {
    if (!(error instanceof TunesmithError)) throw error;
    const { code, message, fix, details } = error;
    throw new TunesmithError(code, `held-out data: ${message}`, { fix, details, cause: error });
  }
}

/** Objectives over answers that are judged. */
async function judged<E>(
  context: ObjectiveContext,
  tokenize: (rows: readonly Row[], tokenizer: Tokenizer, options: TokenizeOptions) => Judged<E>,
  rowsOf: (example: E) => readonly { readonly ids: Int32Array; readonly lossMask: Uint8Array }[],
  make: (data: {
    train: readonly E[];
    validation: readonly E[];
    lengths: readonly number[];
  }) => Objective<CausalLm> | Promise<Objective<CausalLm>>,
): Promise<PreparedObjective> {
  const { tokenizer, batchSize, length, tokens } = context;
  const options = { ...tokens, maxLength: length };
  const own = tokenize(context.train, tokenizer, options);
  const { validation } = context;
  const held = validation.length > 0 ? heldOut(() => tokenize(validation, tokenizer, options).examples) : [];
  const rows = own.examples.flatMap(rowsOf);
  const heldRows = held.flatMap(rowsOf);
  const lengths = rowLengths([...rows, ...heldRows], length);
  return {
    objective: await make({ train: own.examples, validation: held, lengths }),
    examples: own.examples.length,
    rowTokens: rows.map(({ ids }) => ids.length),
    lengths,
    shape: {
      batch: (batchSize * rows.length) / own.examples.length,
      length: Math.max(...lengths),
      other: Math.max(...lengths),
    },
    batchesPerEpoch: Math.ceil(own.examples.length / batchSize),
    trainedTokens: rows.reduce((sum, { lossMask }) => sum + lossMask.reduce((a, b) => a + b, 0), 0),
    heldOutTokens: heldRows.reduce((sum, { ids }) => sum + ids.length, 0),
    truncated: own.dropped,
    eosMissing: (tokens.appendEos ?? true) && tokenizer.eosId === undefined,
  };
}

const sides = ({ chosen, rejected }: PairExample) => [chosen, rejected];

const pairs = (
  name: string,
  summary: string,
  paper: string,
  options: z.ZodObject,
  make: (
    model: CausalLm,
    data: PreferenceData & { readonly reference?: CausalLm | undefined },
  ) => Objective<CausalLm>,
  needsReference = false,
): ObjectiveEntry => ({
  name,
  summary,
  paper,
  layouts: ["preference"],
  options,
  needsReference,
  prepare: (context, own) =>
    judged(context, tokenizePairs, sides, async (data) => {
      const { model, batchSize, padId, reference } = context;
      const plan = { ...own, batchSize, padId };
      if (!needsReference || !reference) return make(model, { ...plan, ...data });
      const scored = await scoredOnce(context, reference, data);
      return make(model, { ...plan, ...scored, ...(context.referenceScores ? {} : { reference }) });
    }),
});

type Pairs = {
  readonly train: readonly PairExample[];
  readonly validation: readonly PairExample[];
  readonly lengths: readonly number[];
};

/** Pairs with the reference's scores, where these are wanted before the training. */
async function scoredOnce(
  { referenceScores, batchSize, padId }: ObjectiveContext,
  reference: CausalLm,
  data: Pairs,
): Promise<Pairs> {
  if (!referenceScores) return data;
  const { train, validation, lengths } = data;
  const all = await withReference(reference, [...train, ...validation], {
    ...{ batchSize, padId, lengths },
    ...referenceScores,
  });
  return { lengths, train: all.slice(0, train.length), validation: all.slice(train.length) };
}

const entries: readonly ObjectiveEntry[] = [
  {
    name: "sft",
    summary: "the next token of texts and answers",
    paper: undefined,
    layouts: TEXT,
    options: z.strictObject({}),
    prepare: (context) => packed(context, (plan) => nextToken(context.model, plan)),
  },
  pairs("dpo", "which of two answers is better, near a reference", "2305.18290", dpoOptions, dpo, true),
  pairs("orpo", "the better answer, and its odds over the other's", "2403.07691", orpoOptions, orpo),
  pairs("simpo", "which answer is better, by mean log-probabilities", "2405.14734", simpoOptions, simpo),
  pairs("cpo", "which answer is better, with the better one's cross-entropy", "2401.08417", cpoOptions, cpo),
  {
    name: "kto",
    summary: "answers with a verdict each, near a reference",
    paper: "2402.01306",
    layouts: ["feedback"],
    options: ktoOptions,
    needsReference: true,
    prepare: (context, own) =>
      judged(
        context,
        tokenizeFeedback,
        ({ answer }) => [answer],
        (data) => {
          const { model, batchSize, padId } = context;
          return kto(model, { ...own, ...data, batchSize, padId, reference: context.reference ?? model });
        },
      ),
  },
  {
    name: "distillation",
    summary: "a teacher's distribution over the next token",
    paper: "1503.02531",
    layouts: TEXT,
    options: distillationOptions,
    needsTeacher: true,
    prepare: (context, own) =>
      packed(context, (plan) =>
        distillation(context.model, {
          ...{ ...plan, ...own, teacherLogits: context.teacherLogits },
          teacher: context.teacherLogits ? undefined : context.teacher,
        }),
      ),
  },
];

/** Names of the objectives of language models. */
export const objectiveNames: readonly string[] = entries.map(({ name }) => name);

/** The objective `name`. Throws `config-invalid` with near names. */
export function objectiveNamed(name: string): ObjectiveEntry {
  const found = entries.find((entry) => entry.name === name);
  if (found) return found;
  throw new TunesmithError("config-invalid", `unknown objective '${name}'`, {
    fix: `near names: ${nearest(name, objectiveNames, 3).join(", ")}`,
  });
}

/** The usual objective for rows of a layout: `dpo` for pairs, `kto` for verdicts, else `sft`. */
export const objectiveForLayout = (layout: Layout): string =>
  layout === "preference" ? "dpo" : layout === "feedback" ? "kto" : "sft";

/**
 * An objective by name over rows, with options given as data. Throws `config-invalid` naming the option, or for a missing
 * reference or teacher, and what tokenizing throws.
 */
export async function prepareObjective(
  name: string,
  context: ObjectiveContext,
  options: Readonly<Record<string, unknown>> = {},
): Promise<PreparedObjective> {
  const entry = objectiveNamed(name);
  const parsed = entry.options.safeParse(options);
  if (!parsed.success) {
    const issue = parsed.error.issues[0];
    const where = [name, ...(issue?.path ?? [])].join(".");
    throw new TunesmithError("config-invalid", `${where}: ${issue?.message}`, {
      fix: `its options: ${Object.keys(entry.options.shape).join(", ") || "none"}`,
    });
  }
  if (context.balance && !entry.layouts.includes("text")) {
    throw new TunesmithError("config-invalid", `${name} does not balance tasks within its batches`, {
      fix: "leave balance out, or train on texts and answers",
    });
  }
  if (entry.needsReference && !context.reference) {
    throw new TunesmithError("config-invalid", `${name} has no reference model`, {
      fix: "give the model as it was before: setActive(model, []), or the base",
    });
  }
  if (entry.needsTeacher && !context.teacher && !context.teacherLogits) {
    throw new TunesmithError("config-invalid", `${name} has no teacher`, {
      fix: "give a model to learn from, or a file of its logits",
    });
  }
  return entry.prepare(context, parsed.data);
}

/**
 * A teacher's logits of the rows that a run will read, computed before it unless the file is there already.
 *
 * Throws `config-invalid` for a file of another teacher, or for none and no teacher.
 */
export async function teacherLogitsOf(
  context: Omit<ObjectiveContext, "model">,
  file: string,
  options: Pick<WriteTeacherOptions, "top" | "fingerprint" | "session" | "onProgress"> = {},
): Promise<TeacherLogits> {
  const { teacher, train, validation, tokenizer, length, tokens, padId } = context;
  if (!(await fileExists(file))) {
    if (!teacher) {
      throw new TunesmithError("config-invalid", `there is no file ${file}, and no teacher to write it`, {
        fix: "give the teacher, or the file's place",
      });
    }
    const { packs } = prepareRows([...train, ...validation], tokenizer, { ...tokens, length });
    const examples = packs.flatMap((pack) => pack.examples);
    const lengths = rowLengths(examples, length);
    await writeTeacherLogits(file, teacher, examples, { ...options, lengths, padId });
  }
  const opened = await openTeacherLogits(file);
  const { fingerprint, top } = options;
  const other = fingerprint !== undefined && opened.fingerprint !== fingerprint;
  if (!other && (top === undefined || top === opened.top)) return opened;
  await opened.close();
  throw new TunesmithError(
    "config-invalid",
    other ? `${file} is of another teacher` : `${file} holds ${opened.top} logits per token, not ${top}`,
    { fix: "name another file, or delete it" },
  );
}

/** An objective with its options as a JSON schema's properties, for tables and other programs. */
export const describeObjective = ({ name, summary, paper, layouts, options }: ObjectiveEntry) => ({
  name,
  summary,
  paper: paper ?? null,
  layouts,
  options: z.toJSONSchema(options, { io: "input" }).properties ?? {},
});
