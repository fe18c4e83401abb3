import { z } from "zod";
import type { FileLocation } from "#io";
import type { TokenizedExample } from "../../data/index.js";
import { TunesmithError } from "../../errors/index.js";
import { makeGraph, ops, type Value } from "../../graph/index.js";
import { type CausalLm, inputsOf, parameterFeeds } from "../../models/index.js";
import { createSession, type SessionOptions } from "../../runtime/index.js";
import {
  type LazyTensor,
  openSafetensors,
  type Tensor,
  tensor,
  writeSafetensors,
} from "../../tensor/index.js";
import { hashWords } from "../hash.js";
import {
  checkedPlan,
  collateRows,
  type RowPlan,
  rowFeeds,
  rowInputs,
  rowPass,
  rowWords,
} from "../language-rows.js";
import { chunkLogits, eachChunk, headInputs, rowsPerChunk } from "../losses/head.js";
import { closeAll, onlyRead, perShape } from "../stepper.js";

/** What a teacher thinks of the trained tokens of an example. */
export interface TeacherRow {
  /** float32 `[trained tokens, likeliest]`, up to a constant per token; descending unless all tokens are there. */
  readonly logits: Tensor;
  /** int32, of the same shape: whose they are. Absent: every token of the vocabulary, in order. */
  readonly ids?: Tensor;
}

/** An open file of a teacher's logits. */
export interface TeacherLogits {
  readonly name: string;
  readonly vocabSize: number;
  /** Logits per token: the vocabulary's size, or fewer likeliest ones. */
  readonly top: number;
  readonly fingerprint: string | undefined;
  /** Reads one example's. Throws `data-invalid` for one that the file lacks. */
  read(example: TokenizedExample): Promise<TeacherRow>;
  close(): Promise<void>;
}

export interface WriteTeacherOptions extends Omit<RowPlan, "batchSize"> {
  /** Likeliest tokens that are kept at each place; the vocabulary's size keeps all. Default 64. */
  readonly top?: number;
  /** Names the teacher in the file, for example by its fingerprint. */
  readonly fingerprint?: string;
  readonly session?: SessionOptions;
  /** Called after each example. */
  readonly onProgress?: (done: number, total: number) => void;
}

const FORMAT = "tunesmith-teacher-logits-1";
const metadataSchema = z.object({
  format: z.literal(FORMAT),
  vocabSize: z.coerce.number().int().positive(),
  top: z.coerce.number().int().positive(),
  fingerprint: z.string().optional(),
});

/** Names an example by its tokens and what of them is trained. */
function keyOf(example: TokenizedExample): string {
  const words = [...rowWords([[example]])];
  return `${example.ids.length}-${hashWords(() => words)}${hashWords(() => words.toReversed())}`;
}

/** Places before trained tokens: where their logits stand. */
const placesOf = ({ lossMask }: TokenizedExample): number[] =>
  [...lossMask.keys()].slice(1).flatMap((at) => (lossMask[at] === 1 ? [at - 1] : []));

/**
 * Writes a teacher's logits at every trained token of examples, for `distillation` without the teacher: a safetensors file with a
 * tensor per example, float32 `[tokens, 2, top]` (logits, and below them their tokens' ids), or `[tokens, vocabulary]` with all.
 * Examples are found by their tokens, so that packing, order and splits may differ later. One is held in memory at a time.
 *
 * Throws `config-invalid` for a `top` beyond the vocabulary, `data-invalid` for rows the model cannot read.
 *
 * @returns The size of the file in bytes.
 * @example
 * ```ts
 * import type { TokenizedExample } from "tunesmith/data";
 * import type { CausalLm } from "tunesmith/models";
 * import { writeTeacherLogits } from "tunesmith/training";
 * export const write = (teacher: CausalLm, examples: readonly TokenizedExample[]) =>
 *   writeTeacherLogits("teacher.safetensors", teacher, examples, { lengths: [256], padId: 0, top: 32 });
 * ```
 */
export async function writeTeacherLogits(
  file: string,
  teacher: CausalLm,
  examples: readonly TokenizedExample[],
  options: WriteTeacherOptions,
): Promise<number> {
  const { vocabSize } = teacher.sizes;
  const { top = Math.min(64, vocabSize), fingerprint, onProgress } = options;
  if (!Number.isInteger(top) || top < 1 || top > vocabSize) {
    throw new TunesmithError("config-invalid", `top ${top}: the teacher knows ${vocabSize} tokens`, {
      fix: `give a whole number from 1 to ${vocabSize}`,
    });
  }
  const plan = checkedPlan(teacher, [examples], { ...options, batchSize: 1 }, "examples");
  const unique = new Map(examples.map((example) => [keyOf(example), example] as const));
  const scorer = likeliestOf(teacher, plan, top, options.session);
  const digits = String(unique.size).length;
  let done = 0;
  const tensors = [...unique].map(([key, example], at): [string, LazyTensor] => {
    const count = placesOf(example).length;
    const shape = top === vocabSize ? [count, top] : [count, 2, top];
    const load = async () => {
      const data = await scorer.run(example);
      onProgress?.(++done, unique.size);
      return tensor("float32", shape, data);
    };
    return [`${String(at).padStart(digits, "0")}/${key}`, { dtype: "float32", shape, load }];
  });
  const metadata = {
    ...{ format: FORMAT, vocabSize: String(vocabSize), top: String(top) },
    ...(fingerprint === undefined ? {} : { fingerprint }),
  };
  try {
    return await writeSafetensors(file, tensors, { metadata });
  } finally {
    await scorer.close();
  }
}

/** The values to write of an example. */
function likeliestOf(teacher: CausalLm, plan: RowPlan, top: number, how: SessionOptions | undefined) {
  const all = top === teacher.sizes.vocabSize;
  const compiled = perShape(async (shape) => {
    const inputs = rowInputs(shape);
    const { hidden, logits } = rowPass(teacher, inputs, { training: false });
    const chunkRows = rowsPerChunk(hidden.shape[0] as number, teacher.sizes.vocabSize);
    const head = { hidden, logits, chunkRows };
    const { masks } = headInputs(head);
    const parts = { values: [] as Value[], ids: [] as Value[] };
    eachChunk(head, (chunk) => {
      const logs = ops.logSoftmax(chunkLogits(head, masks, chunk));
      const { values, indices } = all ? { values: logs, indices: undefined } : ops.topK(logs, top);
      parts.values.push(values);
      if (indices) parts.ids.push(ops.cast(indices, "float32"));
      return [values];
    });
    const outputs: [string, Value][] = [["values", ops.concat(parts.values, 0)]];
    if (!all) outputs.push(["likeliest", ops.concat(parts.ids, 0)]);
    const graph = makeGraph("teacher", inputsOf(outputs.map(([, value]) => value)), outputs);
    return { graph, session: await createSession(graph, how) };
  });
  return {
    async run(example: TokenizedExample): Promise<Float32Array> {
      const batch = collateRows([example], plan, 1);
      const { graph, session } = await compiled.get({ batch: 1, length: batch.inputIds.shape[1] as number });
      const feeds = { ...rowFeeds(batch), ...parameterFeeds(graph, teacher.parameters) };
      const { values, likeliest } = await session.run(onlyRead(graph.inputs, feeds));
      const row = (from: Tensor | undefined, at: number) =>
        from ? [(from.data as Float32Array).subarray(at * top, (at + 1) * top)] : [];
      const rows = placesOf(example).flatMap((at) => [...row(values, at), ...row(likeliest, at)]);
      const data = new Float32Array(rows.length * top);
      rows.forEach((part, at) => void data.set(part, at * top));
      return data;
    },
    async close() {
      await closeAll((await compiled.clear()).map(({ session }) => session.release));
    },
  };
}

/**
 * Opens a file that `writeTeacherLogits` wrote; logits are read example by example when they are needed.
 *
 * Throws `file-corrupt` for a file that is no such.
 *
 * @example
 * ```ts
 * import type { Pack } from "tunesmith/data";
 * import type { CausalLm } from "tunesmith/models";
 * import { adamw, distillation, fit, openTeacherLogits } from "tunesmith/training";
 * export async function tune(student: CausalLm, train: readonly Pack[]) {
 *   const teacherLogits = await openTeacherLogits("teacher.safetensors");
 *   const objective = distillation(student, { teacherLogits, train, batchSize: 4, lengths: [256], padId: 0 });
 *   return fit(objective, { steps: 100, optimizer: adamw({ lr: 1e-3 }) });
 * }
 * ```
 */
export async function openTeacherLogits(location: FileLocation): Promise<TeacherLogits> {
  const file = await openSafetensors(location);
  const parsed = metadataSchema.safeParse(Object.fromEntries(file.metadata));
  if (!parsed.success || parsed.data.top > parsed.data.vocabSize) {
    await file.close();
    throw corrupt(file.name);
  }
  const { vocabSize, top, fingerprint } = parsed.data;
  const names = new Map([...file.entries.keys()].map((name) => [name.slice(name.indexOf("/") + 1), name]));
  return {
    ...{ name: file.name, vocabSize, top, fingerprint },
    async read(example) {
      const name = names.get(keyOf(example));
      if (name === undefined) {
        throw new TunesmithError(
          "data-invalid",
          `${file.name} has no logits of a row of ${example.ids.length} tokens`,
          {
            fix: "write the file again with this data, length and template",
          },
        );
      }
      const entry = file.entries.get(name);
      const count = placesOf(example).length;
      const wanted = top === vocabSize ? [count, top] : [count, 2, top];
      if (entry?.dtype !== "float32" || entry.shape.join() !== wanted.join()) throw corrupt(file.name);
      const stored = await file.read(name);
      return top === vocabSize ? { logits: stored } : apart(stored, vocabSize, file.name);
    },
    close: () => file.close(),
  };
}

/** Logits and ids of `[tokens, 2, top]`. */
function apart(stored: Tensor, vocabSize: number, name: string): TeacherRow {
  const [count, , top] = stored.shape as [number, number, number];
  const data = stored.data as Float32Array;
  const logits = new Float32Array(count * top);
  const ids = new Int32Array(count * top);
  for (let at = 0; at < count; at++) {
    logits.set(data.subarray(2 * at * top, (2 * at + 1) * top), at * top);
    ids.set(data.subarray((2 * at + 1) * top, (2 * at + 2) * top), at * top);
  }
  if (ids.some((id) => id < 0 || id >= vocabSize)) throw corrupt(name);
  return { logits: tensor("float32", [count, top], logits), ids: tensor("int32", [count, top], ids) };
}

const corrupt = (name: string) =>
  new TunesmithError("file-corrupt", `${name} holds no teacher's logits`, {
    fix: "name a file that writeTeacherLogits wrote, or write it again",
  });
