import { z } from "zod";
import { TunesmithError } from "../../errors/index.js";
import type { SessionOptions } from "../../runtime/index.js";
import type { CausalLm } from "../types.js";
import { createDecoder, type Sequence } from "./decoder.js";
import { type Row, startRow } from "./row.js";
import { samplingSchema } from "./sampling.js";

/** Why a text ended: an end token, a stop string, `maxTokens`, or the model's longest position. */
export type StopReason = "end" | "stop" | "length" | "context";

/** Settings of a generation that can be written in a file or as flags. */
export const generateSchema = samplingSchema.extend({
  maxTokens: z.number().int().min(1).default(128).describe("most tokens to generate"),
  stop: z
    .array(z.string().min(1))
    .default([])
    .describe("texts that end the generation; they are not given out"),
  seed: z.union([z.number(), z.string()]).default(0).describe("same seed, same text"),
  stopIds: z
    .array(z.number().int())
    .optional()
    .describe("tokens that end the generation; default: the model's end tokens"),
});

export type GenerateOptions = z.input<typeof generateSchema> & {
  /** Called for each new token with the text that it completed, often empty. `row` counts the prompts of a batch. */
  readonly onToken?: (token: { readonly id: number; readonly text: string; readonly row: number }) => void;
  readonly signal?: AbortSignal;
};

export interface Generation {
  /** New text only, without special tokens; empty when the model has no tokenizer. */
  readonly text: string;
  /** New tokens, without the one that ended the text. */
  readonly ids: readonly number[];
  readonly stopReason: StopReason;
}

/** Text, or the ids of one. */
export type Prompt = string | ArrayLike<number>;

/** A model ready to generate again and again. */
export interface TextGenerator {
  generate(prompt: Prompt, options?: GenerateOptions): Promise<Generation>;
  /** Several prompts, of any lengths, in the same runs of the model. */
  generateBatch(prompts: readonly Prompt[], options?: GenerateOptions): Promise<Generation[]>;
  /** Pieces of text as they come; the generator's return value is the whole generation. */
  stream(prompt: Prompt, options?: GenerateOptions): AsyncGenerator<string, Generation>;
  /** Frees the session. */
  close(): Promise<void>;
}

/**
 * Compiles a model for generation once, for many texts. Changes of its adapters' values show at the next token.
 *
 * Calls throw `config-invalid` for bad options, `data-invalid` for a prompt that is empty, too long or has unknown ids,
 * `tokenizer-unsupported` for text without a tokenizer, `numerical-failure` for NaN, `cancelled` (with what was
 * generated in `details`).
 *
 * @param session Threads, worker, ...; see `SessionOptions`.
 * @example
 * ```ts
 * import { createGenerator, loadModel } from "tunesmith/models";
 * const generator = await createGenerator(await loadModel("path/to/model"));
 * for await (const piece of generator.stream("Once", { temperature: 0.8, topP: 0.9, seed: 1 })) console.log(piece);
 * await generator.close();
 * ```
 */
export async function createGenerator(model: CausalLm, session: SessionOptions = {}): Promise<TextGenerator> {
  const decoder = await createDecoder(model, session);
  const run = (rows: readonly Row[], options: GenerateOptions) =>
    decode(decoder.start(rows.map((row) => row.prompt)), rows, model.sizes.maxPositions, options);
  return {
    async generate(prompt, options = {}) {
      const rows = startRows(model, [prompt], options);
      for await (const _ of run(rows, options));
      return (rows[0] as Row).result();
    },
    async generateBatch(prompts, options = {}) {
      if (prompts.length === 0) return [];
      const rows = startRows(model, prompts, options);
      for await (const _ of run(rows, options));
      return rows.map((row) => row.result());
    },
    async *stream(prompt, options = {}) {
      const rows = startRows(model, [prompt], options);
      for await (const { text } of run(rows, options)) if (text !== "") yield text;
      return (rows[0] as Row).result();
    },
    close: () => decoder.close(),
  };
}

/**
 * Generates one text. For several, `createGenerator` compiles the model only once.
 *
 * @param prompt Text, or ids.
 * @example
 * ```ts
 * import { generate, loadModel } from "tunesmith/models";
 * const model = await loadModel("path/to/model");
 * const { text, stopReason } = await generate(model, "Once upon a time", { maxTokens: 50, stop: ["\n\n"] });
 * ```
 */
export async function generate(
  model: CausalLm,
  prompt: Prompt,
  options: GenerateOptions = {},
): Promise<Generation> {
  const generator = await createGenerator(model);
  try {
    return await generator.generate(prompt, options);
  } finally {
    await generator.close();
  }
}

/** As `generate`, in pieces of text as they come. */
export async function* stream(
  model: CausalLm,
  prompt: Prompt,
  options: GenerateOptions = {},
): AsyncGenerator<string, Generation> {
  const generator = await createGenerator(model);
  try {
    return yield* generator.stream(prompt, options);
  } finally {
    await generator.close();
  }
}

function startRows(model: CausalLm, prompts: readonly Prompt[], options: GenerateOptions): Row[] {
  const settings = parseOptions(options);
  return prompts.map((prompt, index) => startRow(model, prompt, settings, index));
}

/** Settings with their defaults; throws `config-invalid` naming the option. */
export function parseOptions(options: GenerateOptions): z.output<typeof generateSchema> {
  const parsed = generateSchema.safeParse(options);
  if (parsed.success) return parsed.data;
  const issue = parsed.error.issues[0];
  throw new TunesmithError(
    "config-invalid",
    `generation option '${issue?.path.join(".")}': ${issue?.message}`,
    { fix: "correct the option" },
  );
}

/** Runs the model until every row has ended; yields each new token's text, and the rest of a row when it ends. */
export async function* decode(
  sequence: Sequence,
  rows: readonly Row[],
  maxPositions: number,
  { onToken, signal }: GenerateOptions,
): AsyncGenerator<{ readonly text: string; readonly row: number }> {
  for (let step = 0; ; step++) {
    checkCancelled(rows, signal);
    // A row that has ended keeps its place with its last token; nobody reads what comes of it.
    const logits = await (step === 0 ? sequence.read() : sequence.step(rows.map((row) => row.last())));
    for (const [index, row] of rows.entries()) {
      if (row.ended()) continue;
      const token = row.advance(logits[index] as Float32Array, maxPositions);
      if (token.id !== undefined) onToken?.({ id: token.id, text: token.text, row: index });
      yield { text: token.text, row: index };
    }
    if (rows.every((row) => row.ended())) return;
  }
}

function checkCancelled(rows: readonly Row[], signal: AbortSignal | undefined): void {
  if (!signal?.aborted) return;
  const partial = rows.map((row) => row.result());
  throw new TunesmithError("cancelled", "generation was cancelled", {
    fix: "what was generated so far is in the error's details",
    cause: signal.reason,
    details: { partial },
  });
}
