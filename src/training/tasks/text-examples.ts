import type {
  ClassificationRow,
  CompletionRow,
  PreferenceRow,
  Row,
  SimilarityRow,
  TagsRow,
  TextRow,
} from "../../data/index.js";
import { TunesmithError } from "../../errors/index.js";
import type { TensorModel } from "../../models/index.js";
import { tensor } from "../../tensor/index.js";
import { hashWords } from "../hash.js";
import type { ExampleSource, TensorExample } from "../tensor-objective.js";
import { classIndex } from "./labels.js";
import { type MaskOptions, maskedIds } from "./masking.js";
import { pairInputs, piecesOf, type TextReader, textInputs, tokenInputs } from "./text-rows.js";
import { IGNORED } from "./tokens.js";

const scalar = (value: number) => tensor("int64", [], [value]);
const numbers = (values: readonly number[]) => tensor("int64", [values.length], values);

/** Examples that are all there. */
export function exampleList(examples: readonly TensorExample[]): ExampleSource {
  return { size: examples.length, at: (index) => examples[index] as TensorExample, hash: hashOf(examples) };
}

/** A hash over the numbers of examples. */
const hashOf = (examples: readonly TensorExample[]): string =>
  hashWords(function* () {
    for (const { inputs, more = [], targets } of examples)
      for (const group of [inputs, ...more, targets])
        for (const { data } of Object.values(group))
          for (const value of data as ArrayLike<number | bigint> & Iterable<number | bigint>)
            yield Math.round(Number(value) * 1024) | 0;
  });

/** Rows of one kind; throws `data-invalid` naming the first that is of another. */
export function rowsOfKind<K extends Row["kind"]>(
  rows: readonly Row[],
  kinds: readonly K[],
  task: string,
): (Row & { kind: K })[] {
  return rows.map((row, at) => {
    if ((kinds as readonly string[]).includes(row.kind)) return row as Row & { kind: K };
    throw new TunesmithError(
      "data-invalid",
      `row ${at} is a ${row.kind} row; ${task} learns from ${kinds.join(", ")} rows`,
      {
        fix: "choose the task that fits the data, or read it in another `layout`",
        details: { kind: row.kind, task },
      },
    );
  });
}

const textOf = (reader: TextReader, { text, pair }: ClassificationRow) =>
  pair === undefined ? textInputs(reader, text) : pairInputs(reader, text, pair);

/** Texts, or pairs of texts, with a class. */
export const classExamples = (rows: readonly ClassificationRow[], reader: TextReader): ExampleSource =>
  exampleList(
    rows.map((row) => ({
      inputs: textOf(reader, row),
      targets: { label: scalar(classIndex(reader.model, row.label)) },
    })),
  );

/** Texts, or pairs of texts, with several classes: names separated by commas. */
export const labelSetExamples = (rows: readonly ClassificationRow[], reader: TextReader): ExampleSource =>
  exampleList(
    rows.map((row) => {
      const names = namesIn(row.label).map((name) => classIndex(reader.model, name));
      const set = Array.from({ length: reader.model.labels?.length ?? 0 }, (_, at) =>
        names.includes(at) ? 1 : 0,
      );
      return { inputs: textOf(reader, row), targets: { labels: tensor("float32", [set.length], set) } };
    }),
  );

/** The names of a label that lists several. */
export const namesIn = (label: string | number): string[] =>
  String(label)
    .split(",")
    .map((name) => name.trim())
    .filter((name) => name !== "");

/** Texts, or pairs of texts, with a number. */
export const numberExamples = (rows: readonly ClassificationRow[], reader: TextReader): ExampleSource =>
  exampleList(
    rows.map((row, at) => {
      const value = Number(row.label);
      if (Number.isFinite(value))
        return { inputs: textOf(reader, row), targets: { value: tensor("float32", [], [value]) } };
      throw new TunesmithError("data-invalid", `row ${at}: '${row.label}' is no number`, {
        fix: "give a number as label, or train a classifier",
      });
    }),
  );

/** Words with a tag each: the tag is learnt at a word's first piece. */
export function tagExamples(rows: readonly TagsRow[], reader: TextReader): ExampleSource {
  const { model, tokenizer, maxLength, frame } = reader;
  const { before, after } = frame;
  const room = maxLength - before.length - after.length;
  return exampleList(
    rows.map(({ tokens, tags }) => {
      const pieces = piecesOf(tokenizer, tokens);
      const ids = pieces.flat().slice(0, room);
      const labels = pieces
        .flatMap((piece, word) =>
          piece.map((_, at) => (at === 0 ? classIndex(model, tags[word] as string) : IGNORED)),
        )
        .slice(0, room);
      const around = (list: readonly number[]) => list.map(() => IGNORED);
      return {
        inputs: tokenInputs(model, [...before, ...ids, ...after]),
        targets: { labels: numbers([...around(before), ...labels, ...around(after)]) },
      };
    }),
  );
}

/** Prompt and completion as source and target; the decoder reads the target one place behind. */
export function seq2seqExamples(rows: readonly CompletionRow[], reader: TextReader): ExampleSource {
  const { model, tokenizer, maxLength } = reader;
  const start = model.decoder?.startId;
  if (start === undefined) {
    throw new TunesmithError("task-mismatch", `${model.architecture} has no decoder`, {
      fix: "choose a sequence-to-sequence model",
    });
  }
  return exampleList(
    rows.map(({ prompt, completion }) => {
      const labels = [...tokenizer.encode(completion)].slice(0, maxLength);
      return {
        inputs: {
          ...textInputs(reader, prompt),
          decoder_input_ids: numbers([start, ...labels.slice(0, -1)]),
        },
        targets: { labels: numbers(labels) },
      };
    }),
  );
}

/**
 * Texts whose words are hidden and found again: another choice every epoch. Long texts give several rows.
 */
export function maskedExamples(
  rows: readonly TextRow[],
  reader: TextReader,
  options: MaskOptions & { readonly seed?: number | undefined } = {},
): ExampleSource {
  const { model, tokenizer, maxLength, frame } = reader;
  const { before, after } = frame;
  const room = maxLength - before.length - after.length;
  const blocks = rows.flatMap(({ text }) => {
    const ids = tokenizer.encode(text, { addSpecialTokens: false });
    return Array.from({ length: Math.ceil(ids.length / room) }, (_, at) =>
      ids.slice(at * room, (at + 1) * room),
    );
  });
  return {
    size: blocks.length,
    varies: true,
    hash: hashWords(function* () {
      for (const block of blocks) yield* block;
    }),
    at(index, epoch) {
      const ids = blocks[index] as Int32Array;
      const masked = maskedIds(tokenizer, ids, { ...options, stream: [epoch ?? "held out", index] });
      const around = (list: readonly number[]) => list.map(() => IGNORED);
      return {
        inputs: tokenInputs(model, [...before, ...masked.ids, ...after]),
        targets: { labels: numbers([...around(before), ...masked.labels, ...around(after)]) },
      };
    },
  };
}

/** Texts that belong together, and `negatives` that do not, each as a row. Rows with fewer negatives are an error. */
export function similarityExamples(
  rows: readonly SimilarityRow[],
  reader: TextReader,
  negatives: number,
): ExampleSource {
  return exampleList(
    rows.map(({ anchor, positive, negatives: own }, at) => {
      if (own.length < negatives) {
        throw new TunesmithError("data-invalid", `row ${at} has ${own.length} negatives, not ${negatives}`, {
          fix: "give every row as many negatives as the first",
        });
      }
      const [first, ...more] = [anchor, positive, ...own.slice(0, negatives)].map((text) =>
        textInputs(reader, text),
      );
      return { inputs: first as TensorExample["inputs"], more, targets: {} };
    }),
  );
}

/** Two texts with a score of their likeness. */
export const scoredPairExamples = (rows: readonly ClassificationRow[], reader: TextReader): ExampleSource =>
  exampleList(
    rows.map(({ text, pair, label }, at) => {
      if (pair === undefined || !Number.isFinite(Number(label))) {
        throw new TunesmithError("data-invalid", `row ${at} is no pair of texts with a number`, {
          fix: "give text, pair and a number as label",
        });
      }
      return {
        inputs: textInputs(reader, text),
        more: [textInputs(reader, pair)],
        targets: { value: tensor("float32", [], [Number(label)]) },
      };
    }),
  );

/** Two answers to a prompt as rows of a model that judges texts. */
export const preferenceExamples = (
  rows: readonly PreferenceRow[],
  model: TensorModel,
  tokenize: (row: PreferenceRow, side: "chosen" | "rejected") => ArrayLike<number>,
): ExampleSource =>
  exampleList(
    rows.map((row) => ({
      inputs: tokenInputs(model, tokenize(row, "chosen")),
      more: [tokenInputs(model, tokenize(row, "rejected"))],
      targets: {},
    })),
  );
