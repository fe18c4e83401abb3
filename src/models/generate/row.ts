import type { z } from "zod";
import { TunesmithError } from "../../errors/index.js";
import { rng } from "../../runtime/random/index.js";
import type { DecodeStream } from "../tokenizer/index.js";
import type { AnyModel, CausalLm } from "../types.js";
import type { Generation, generateSchema, Prompt, StopReason } from "./generate.js";
import { chooseToken } from "./sampling.js";
import { stopMatcher } from "./stop.js";

type Settings = z.output<typeof generateSchema>;

/** One text being generated. */
export interface Row {
  readonly prompt: readonly number[];
  /** The token to feed next. */
  last(): number;
  ended(): boolean;
  /** Chooses a token; gives it (none for an end token) and the text that is now certain. */
  advance(
    logits: Float32Array,
    maxPositions: number,
  ): { readonly id: number | undefined; readonly text: string };
  result(): Generation;
}

/** Tokens of the prompt that the text decoder sees first: what follows depends on them (spaces, cut characters). */
const CONTEXT_TOKENS = 16;

/** A text that continues a prompt. */
export function startRow(model: CausalLm, prompt: Prompt, settings: Settings, index: number): Row {
  const start = promptIds(model, prompt);
  checkPrompt(model, start);
  return rowAfter(model, start, settings, index);
}

/** What a row asks of its model. */
export type RowModel = Pick<AnyModel, "config" | "tokenizer">;

/** A text that follows the ids of `start`. Throws `tokenizer-unsupported` for stop strings without a tokenizer. */
export function rowAfter(model: RowModel, start: readonly number[], settings: Settings, index: number): Row {
  if (settings.stop.length > 0 && !model.tokenizer) throw needsTokenizer("stop strings");
  const ends = new Set(settings.stopIds ?? endIds(model));
  const random = rng(settings.seed, "generate", index);
  const decoder = textDecoder(model, start);
  const stops = stopMatcher(settings.stop);
  const ids: number[] = [];
  let text = "";
  let stopReason: StopReason | undefined;

  const emit = (piece: string) => {
    text += piece;
    return piece;
  };
  const finish = (reason: StopReason) => {
    stopReason = reason;
    const rest = stops.push(decoder?.end() ?? "");
    if (rest.stopped) stopReason = "stop";
    return emit(rest.text + stops.end());
  };
  return {
    prompt: start,
    last: () => ids.at(-1) ?? 0,
    ended: () => stopReason !== undefined,
    advance(logits, maxPositions) {
      const id = chooseToken(logits, [...start, ...ids], settings, random);
      if (ends.has(id)) return { id: undefined, text: finish("end") };
      ids.push(id);
      const piece = stops.push(decoder?.push(id) ?? "");
      if (piece.stopped) {
        stopReason = "stop";
        return { id, text: emit(piece.text) };
      }
      const length = start.length + ids.length;
      if (ids.length >= settings.maxTokens) return { id, text: emit(piece.text) + finish("length") };
      if (length > maxPositions) return { id, text: emit(piece.text) + finish("context") };
      return { id, text: emit(piece.text) };
    },
    result: () => ({ text, ids: [...ids], stopReason: stopReason ?? "length" }),
  };
}

function promptIds(model: CausalLm, prompt: Prompt): number[] {
  if (typeof prompt !== "string") return Array.from(prompt);
  if (!model.tokenizer) throw needsTokenizer("a text prompt");
  const ids = Array.from(model.tokenizer.encode(prompt));
  const { bosId } = model.tokenizer;
  return ids.length === 0 && bosId !== undefined ? [bosId] : ids;
}

export const needsTokenizer = (what: string) =>
  new TunesmithError("tokenizer-unsupported", `the model has no tokenizer, which ${what} needs`, {
    fix: "put its tokenizer files beside the model, or give the prompt as ids",
  });

function checkPrompt(model: CausalLm, ids: readonly number[]): void {
  const { vocabSize, maxPositions } = model.sizes;
  if (ids.length === 0) {
    throw new TunesmithError(
      "data-invalid",
      "the prompt is empty, and the model has no token that begins a text",
      {
        fix: "give at least one token",
      },
    );
  }
  const bad = ids.find((id) => !Number.isInteger(id) || id < 0 || id >= vocabSize);
  if (bad !== undefined) {
    throw new TunesmithError(
      "data-invalid",
      `the prompt has token ${bad}; the model knows 0 to ${vocabSize - 1}`,
      {
        fix: "encode it with the model's own tokenizer",
        details: { id: bad, vocabSize },
      },
    );
  }
  if (ids.length > maxPositions) {
    throw new TunesmithError(
      "data-invalid",
      `the prompt has ${ids.length} tokens; the model was made for ${maxPositions}`,
      {
        fix: "shorten it",
        details: { length: ids.length, maxPositions },
      },
    );
  }
}

/** End tokens of the config (a number or a list) and of the tokenizer. */
function endIds(model: RowModel): number[] {
  const listed = [model.config.eos_token_id, model.tokenizer?.eosId].flat();
  return listed.filter((id): id is number => typeof id === "number");
}

function textDecoder(model: RowModel, prompt: readonly number[]): DecodeStream | undefined {
  const decoder = model.tokenizer?.decodeStream({ skipSpecialTokens: true });
  for (const id of prompt.slice(-CONTEXT_TOKENS)) decoder?.push(id);
  return decoder;
}
