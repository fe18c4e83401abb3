import { TunesmithError } from "../../errors/index.js";
import type { TensorModel, Tokenizer } from "../../models/index.js";
import { type Tensor, tensor } from "../../tensor/index.js";

/** How a model reads texts. */
export interface TextReader {
  readonly model: TensorModel;
  readonly tokenizer: Tokenizer;
  /** Tokens of a row at most. */
  readonly maxLength: number;
  /** What the tokenizer puts around a text. */
  readonly frame: Frame;
}

/** Tokens before and after a text. */
export interface Frame {
  readonly before: readonly number[];
  readonly after: readonly number[];
}

/** Tokens per row at most, as far as the config says; infinity where it does not. */
export function longestText({ config }: Pick<TensorModel, "config">): number {
  const positions = Number(config.max_position_embeddings ?? Number.POSITIVE_INFINITY);
  // Positions of this family begin behind the padding token's.
  return /roberta/.test(String(config.model_type)) ? positions - 2 : positions;
}

/** Throws `tokenizer-unsupported` for a model without a tokenizer. */
export function textReader(model: TensorModel, maxLength: number): TextReader {
  const { tokenizer } = model;
  if (!tokenizer) {
    throw new TunesmithError("tokenizer-unsupported", `${model.origin ?? "the model"} has no tokenizer`, {
      fix: "put its tokenizer files (tokenizer.json, vocab.txt, ...) beside the model",
    });
  }
  return { model, tokenizer, maxLength: Math.min(maxLength, longestText(model)), frame: frameOf(tokenizer) };
}

const int64 = (values: ArrayLike<number>): Tensor => tensor("int64", [values.length], Array.from(values));

/** The inputs of a row of tokens, as far as the model has them; `typeIds` say which text each belongs to. */
export function tokenInputs(
  { inputs }: TensorModel,
  ids: ArrayLike<number>,
  typeIds: ArrayLike<number> = new Int32Array(ids.length),
): Record<string, Tensor> {
  const given: Record<string, ArrayLike<number>> = {
    input_ids: ids,
    attention_mask: new Int32Array(ids.length).fill(1),
    token_type_ids: typeIds,
  };
  return Object.fromEntries(
    inputs.flatMap(({ name }) =>
      given[name] ? [[name, int64(given[name] as ArrayLike<number>)] as const] : [],
    ),
  );
}

/** A text as a row, cut in front of the tokens that end it. */
export function textInputs(reader: TextReader, text: string): Record<string, Tensor> {
  const { model, tokenizer, maxLength, frame } = reader;
  const ids = tokenizer.encode(text);
  if (ids.length <= maxLength) return tokenInputs(model, ids);
  const end = ids.length - frame.after.length;
  return tokenInputs(model, [...ids.subarray(0, maxLength - frame.after.length), ...ids.subarray(end)]);
}

/** Two texts as a row; where they are too long, the longer one is cut. */
export function pairInputs(reader: TextReader, first: string, second: string): Record<string, Tensor> {
  const { model, tokenizer, maxLength, frame } = reader;
  const { ids, typeIds } = tokenizer.encodePair(first, second);
  const over = ids.length - maxLength;
  if (over <= 0) return tokenInputs(model, ids, typeIds);
  const bare = (text: string) => tokenizer.encode(text, { addSpecialTokens: false }).length;
  const sizes: [number, number] = [bare(first), bare(second)];
  const lost: [number, number] = [0, 0];
  for (let left = over; left > 0 && sizes[0] + sizes[1] > 0; left--) {
    const at = sizes[0] > sizes[1] ? 0 : 1;
    sizes[at]--;
    lost[at]++;
  }
  const ends = [frame.before.length + bare(first), ids.length - frame.after.length] as const;
  const kept = Array.from(ids.keys()).filter((at) =>
    ends.every((end, text) => at < end - (lost[text] as number) || at >= end),
  );
  return tokenInputs(
    model,
    kept.map((at) => ids[at] as number),
    kept.map((at) => typeIds[at] as number),
  );
}

/** What stands around a text; unknown words are special tokens too, so the text itself is looked for. */
function frameOf(tokenizer: Tokenizer): Frame {
  const whole = [...tokenizer.encode("a")];
  const bare = [...tokenizer.encode("a", { addSpecialTokens: false })];
  const start = whole.findIndex((_, at) => bare.every((id, place) => whole[at + place] === id));
  return { before: whole.slice(0, start), after: whole.slice(start + bare.length) };
}

/** Pieces of words as they stand in a text, word by word. */
export function piecesOf(tokenizer: Tokenizer, words: readonly string[]): number[][] {
  const bare = (text: string) => [...tokenizer.encode(text, { addSpecialTokens: false })];
  const before = bare("a");
  return words.map((word, at) => {
    if (at === 0) return bare(word);
    // A space before a word belongs to its first piece in some tokenizers.
    const after = bare(`a ${word}`);
    return before.every((id, place) => after[place] === id) ? after.slice(before.length) : bare(word);
  });
}
