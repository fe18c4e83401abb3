import { TunesmithError } from "../../errors/index.js";
import { type Dim, type Graph, input, makeGraph, ops, recompute, type Value } from "../../graph/index.js";
import type { SessionOptions } from "../../runtime/index.js";
import { type Tensor, tensor } from "../../tensor/index.js";
import { inputsOf } from "../feeds.js";
import { axesOf, filled } from "../probe.js";
import type { DecoderSizes, KeyValue, TensorModel } from "../types.js";
import { type Columns, createCache, leftPadded, oneColumn, rowsOf } from "./cache.js";
import { decodingInputs, newColumns } from "./decode-graph.js";
import { runner, type Sequence } from "./decoder.js";
import { decode, type GenerateOptions, type Generation, parseOptions } from "./generate.js";
import { needsTokenizer, rowAfter } from "./row.js";

/** A text, its ids, or the encoder's inputs by name (one row): `{ input_features }`. */
export type Seq2seqInput = string | ArrayLike<number> | Readonly<Record<string, Tensor>>;

export type Seq2seqOptions = GenerateOptions & {
  /** Tokens the output begins with, after the model's start token: a language, a task. They are not given back. */
  readonly prefix?: readonly number[];
  /** Tokens that are never chosen. */
  readonly suppress?: readonly number[];
  /** Tokens that the output does not begin with. */
  readonly suppressFirst?: readonly number[];
};

/** A sequence-to-sequence model ready to generate again and again. */
export interface Seq2seqGenerator {
  generate(source: Seq2seqInput, options?: Seq2seqOptions): Promise<Generation>;
  /** Several sources in the same runs: texts or ids of any lengths, or the encoder's inputs with a batch axis. */
  generateBatch(
    sources: readonly (string | ArrayLike<number>)[] | Readonly<Record<string, Tensor>>,
    options?: Seq2seqOptions,
  ): Promise<Generation[]>;
  close(): Promise<void>;
}

/**
 * Compiles a sequence-to-sequence model for generation: the encoder runs once per source, the decoder step by step with
 * its own keys and values and those of the encoder's output kept. Changes of its adapters' values show at the next source.
 *
 * Throws `task-mismatch` for a model without a decoder. Calls throw `config-invalid` for bad options, `data-invalid` for an
 * empty source or unknown ids, `tokenizer-unsupported` for text without a tokenizer, `cancelled`.
 *
 * @param session Threads, worker, ...; see `SessionOptions`.
 * @example
 * ```ts
 * import { createSeq2seqGenerator, loadModel } from "tunesmith/models";
 * const generator = await createSeq2seqGenerator(await loadModel("path/to/t5", { task: "seq2seq" }));
 * const { text } = await generator.generate("translate English to German: Good morning.", { maxTokens: 40 });
 * await generator.close();
 * console.log(text);
 * ```
 */
export async function createSeq2seqGenerator(
  model: TensorModel,
  session: SessionOptions = {},
): Promise<Seq2seqGenerator> {
  const sizes = decoderOf(model);
  const graphs = seq2seqGraphs(model, sizes);
  const encoder = await runner(model, graphs.encode, session);
  const decoder = await runner(model, graphs.decode, session);
  const runAll = async (given: Readonly<Record<string, Tensor>>, batch: number, options: Seq2seqOptions) => {
    const settings = parseOptions(generateOptions(options));
    const start = [sizes.startId, ...(options.prefix ?? [])];
    checkIds(start, sizes.vocabSize, "the output's beginning");
    const rows = Array.from({ length: batch }, (_, at) => rowAfter(model, start, settings, at));
    const kept = { ...given, ...(await encoder.run(given)) };
    const sequence = suppressing(sequenceOf(decoder.run, kept, sizes, { batch, start }), options);
    for await (const _ of decode(sequence, rows, sizes.maxPositions, options));
    return rows.map((row) => row.result());
  };
  return {
    async generate(source, options = {}) {
      const given = isTensors(source) ? encoderFeeds(model, source) : textFeeds(model, [source]);
      return (await runAll(given, 1, options))[0] as Generation;
    },
    async generateBatch(sources, options = {}) {
      if (isTensors(sources)) {
        const given = encoderFeeds(model, sources);
        return runAll(given, Object.values(given)[0]?.shape[0] ?? 0, options);
      }
      return sources.length === 0 ? [] : runAll(textFeeds(model, sources), sources.length, options);
    },
    async close() {
      await encoder.close();
      await decoder.close();
    },
  };
}

/**
 * Generates the output of a sequence-to-sequence model for one source. For several, `createSeq2seqGenerator` compiles
 * the model only once.
 *
 * @example
 * ```ts
 * import { generateSeq2seq, type TensorModel } from "tunesmith/models";
 * import type { Tensor } from "tunesmith/tensor";
 * export const transcribe = (whisper: TensorModel, input_features: Tensor) =>
 *   generateSeq2seq(whisper, { input_features }, { prefix: [50259, 50359, 50363], maxTokens: 200 });
 * ```
 */
export async function generateSeq2seq(
  model: TensorModel,
  source: Seq2seqInput,
  options: Seq2seqOptions = {},
): Promise<Generation> {
  const generator = await createSeq2seqGenerator(model);
  try {
    return await generator.generate(source, options);
  } finally {
    await generator.close();
  }
}

const generateOptions = ({ prefix, suppress, suppressFirst, ...options }: Seq2seqOptions) => options;

function decoderOf(model: TensorModel): DecoderSizes {
  if (model.decoder) return model.decoder;
  throw new TunesmithError("task-mismatch", `a model for ${model.task} has no decoder to generate with`, {
    fix: 'load it with { task: "seq2seq" }',
  });
}

const crossName = (layer: number, part: "key" | "value") => `cross.${layer}.${part}`;

/**
 * The model in two: inputs to the keys and values that the decoder reads; and a step of the decoder over those and its
 * own cache. All axes are symbolic.
 */
function seq2seqGraphs(model: TensorModel, sizes: DecoderSizes): { encode: Graph; decode: Graph } {
  const values = Object.fromEntries(
    model.inputs.map(({ name, dtype, shape }) => [name, input(name, dtype, shape)]),
  );
  const ids = values.decoder_input_ids as Value;
  const decoding = decodingInputs(sizes, String(ids.shape[1]));
  const outputs = model.build({ values, decoding });
  const { present, cross } = outputs.decoding as { present: readonly KeyValue[]; cross: readonly KeyValue[] };
  const kept = cross.flatMap(({ key, value }, layer): [string, Value][] => [
    [crossName(layer, "key"), key],
    [crossName(layer, "value"), value],
  ]);
  const encode = makeGraph("encode", inputsOf(kept.map(([, value]) => value)), kept);
  const fed = new Map(kept.map(([name, value]) => [value, input(name, "float32", value.shape)]));
  const logits = outputs.values.logits as Value;
  const [batch, , vocab] = logits.shape as [Dim, Dim, number];
  const last = ops.reshape(ops.slice(logits, 1, -1), [batch, vocab], [ids]);
  const named: [string, Value][] = [["logits", last], ...newColumns(present, decoding.past.positions)];
  const step = recompute(
    named.map(([, value]) => value),
    fed,
  );
  const results = named.map(([name], at): [string, Value] => [name, step[at] as Value]);
  return { encode, decode: makeGraph("decode", inputsOf(step), results) };
}

function sequenceOf(
  run: (given: Readonly<Record<string, Tensor>>) => Promise<Readonly<Record<string, Tensor>>>,
  kept: Readonly<Record<string, Tensor>>,
  sizes: DecoderSizes,
  { batch, start }: { readonly batch: number; readonly start: readonly number[] },
): Sequence {
  const cache = createCache(sizes, batch);
  const lengths = new Array<number>(batch).fill(start.length);
  const advance = async ({ ids, ...places }: Columns) => {
    const results = await run({ ...kept, ...places, decoder_input_ids: ids, ...cache.feeds() });
    cache.append({ ids, ...places }, results);
    return rowsOf(results.logits as Tensor);
  };
  return {
    read: () => advance(leftPadded(new Array(batch).fill(start))),
    step: (ids) => advance(oneColumn(ids, lengths)),
  };
}

/** The sequence with tokens that must not be chosen at minus infinity. */
function suppressing(sequence: Sequence, { suppress = [], suppressFirst = [] }: Seq2seqOptions): Sequence {
  const without = (rows: Float32Array[], ids: readonly number[]) =>
    ids.length === 0
      ? rows
      : rows.map((row) => {
          const result = row.slice();
          for (const id of ids) if (id < result.length) result[id] = Number.NEGATIVE_INFINITY;
          return result;
        });
  return {
    read: async () => without(await sequence.read(), [...suppress, ...suppressFirst]),
    step: async (ids) => without(await sequence.step(ids), suppress),
  };
}

const isTensors = (source: unknown): source is Readonly<Record<string, Tensor>> =>
  typeof source === "object" && source !== null && !("length" in source);

/** Everything the encoder reads, what is not given at its default. */
function encoderFeeds(model: TensorModel, given: Readonly<Record<string, Tensor>>): Record<string, Tensor> {
  const inputs = model.inputs.filter(({ name }) => name !== "decoder_input_ids");
  const encoder = { inputs, probeAxes: model.probeAxes };
  const axes = axesOf(encoder, given);
  return Object.fromEntries(
    inputs.map((spec) => [spec.name, given[spec.name] ?? filled(encoder, spec, axes)]),
  );
}

/** Texts or ids as `input_ids` and `attention_mask`, padded at their ends. */
function textFeeds(
  model: TensorModel,
  sources: readonly (string | ArrayLike<number>)[],
): Record<string, Tensor> {
  const spec = model.inputs.find(({ name }) => name === "input_ids");
  if (!spec) {
    throw new TunesmithError("data-invalid", "the model does not read text", {
      fix: `give its inputs by name: ${model.inputs.map(({ name }) => name).join(", ")}`,
    });
  }
  const rows = sources.map((source) => {
    if (typeof source !== "string") return Array.from(source);
    if (!model.tokenizer) throw needsTokenizer("a text");
    return Array.from(model.tokenizer.encode(source));
  });
  for (const row of rows) checkIds(row, spec.below ?? Number.POSITIVE_INFINITY, "the source");
  const length = Math.max(...rows.map((row) => row.length));
  const pad = model.tokenizer?.padId ?? 0;
  const filledWith = (rest: number, row: readonly number[], values: readonly number[]) => [
    ...values,
    ...new Array<number>(length - row.length).fill(rest),
  ];
  const shape = [rows.length, length];
  return {
    input_ids: tensor(
      "int64",
      shape,
      rows.flatMap((row) => filledWith(pad, row, row)),
    ),
    attention_mask: tensor(
      "int64",
      shape,
      rows.flatMap((row) =>
        filledWith(
          0,
          row,
          row.map(() => 1),
        ),
      ),
    ),
  };
}

function checkIds(ids: readonly number[], below: number, what: string): void {
  if (ids.length === 0) {
    throw new TunesmithError("data-invalid", `${what} is empty`, { fix: "give at least one token" });
  }
  const bad = ids.find((id) => !Number.isInteger(id) || id < 0 || id >= below);
  if (bad === undefined) return;
  throw new TunesmithError("data-invalid", `${what} has token ${bad}; the model knows 0 to ${below - 1}`, {
    fix: "encode it with the model's own tokenizer",
    details: { id: bad, vocabSize: below },
  });
}
