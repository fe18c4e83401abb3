import { z } from "zod";
import { type Dim, ops, type Value, withScope } from "../../graph/index.js";
import type { KeyValue, TensorInputs, TensorOutputs } from "../types.js";
import type { TensorArchitecture, TensorDescription } from "./definition.js";
import { decoderPlaces } from "./parts/decoder.js";
import { labelsOf, labelsSchema } from "./parts/labels.js";
import { activation } from "./parts/layers.js";
import { embeddingLayer, flatTokens, layerNormLayer, linearLayer } from "./parts/modules.js";
import { asSequences, multiHead, type Tokens } from "./parts/multi-head.js";
import { type Params, paramsOf, recordSpecs } from "./parts/params.js";

const schema = z.looseObject({
  vocab_size: z.number().int().positive(),
  num_mel_bins: z.number().int().positive().default(80),
  d_model: z.number().int().positive(),
  encoder_layers: z.number().int().positive(),
  encoder_attention_heads: z.number().int().positive(),
  encoder_ffn_dim: z.number().int().positive(),
  decoder_layers: z.number().int().positive(),
  decoder_attention_heads: z.number().int().positive(),
  decoder_ffn_dim: z.number().int().positive(),
  max_source_positions: z.number().int().positive().default(1500),
  max_target_positions: z.number().int().positive().default(448),
  activation_function: z.string().default("gelu"),
  decoder_start_token_id: z.number().int().nonnegative().nullish(),
  tie_word_embeddings: z.boolean().default(true),
  use_weighted_layer_sum: z.boolean().default(false),
  classifier_proj_size: z.number().int().positive().default(256),
  ...labelsSchema,
});
type Config = z.infer<typeof schema>;

const EPSILON = 1e-5;

interface BlockSizes {
  readonly heads: number;
  readonly inner: number;
  readonly act: string;
}

function attention(
  params: Params,
  path: string,
  x: Tokens,
  source: Tokens,
  { heads, ...options }: { heads: number; mask?: Value; past?: KeyValue | undefined },
) {
  const names = {
    query: `${path}.q_proj`,
    key: `${path}.k_proj`,
    value: `${path}.v_proj`,
    output: `${path}.out_proj`,
  };
  const dim = (x.rows.shape[1] as number) / heads;
  return multiHead(params, names, x, source, { heads, dim, keyBias: false, ...options });
}

const normed = (params: Params, name: string, x: Tokens): Tokens => ({
  ...x,
  rows: layerNormLayer(params, name, x.rows, EPSILON),
});

const plus = (path: string, x: Tokens, rows: Value): Tokens => ({
  ...x,
  rows: withScope(path, () => ops.keep(ops.add(x.rows, rows))),
});

function feedForward(params: Params, path: string, x: Tokens, { inner, act }: BlockSizes): Tokens {
  const { rows } = normed(params, `${path}.final_layer_norm`, x);
  const up = withScope(path, () => activation(act)(linearLayer(params, `${path}.fc1`, rows, inner)));
  return plus(path, x, linearLayer(params, `${path}.fc2`, up, rows.shape[1] as number));
}

/** `[batch, mels, frames]` to states `[batch * frames/2, width]`. */
function encode(config: Config, params: Params, features: Value, root: string) {
  const { d_model: width, num_mel_bins: mels, max_source_positions: length } = config;
  const conv = (name: string, x: Value, channels: number, stride: number) => {
    const weight = params(`${name}.weight`, [width, channels, 3]);
    const shift = params(`${name}.bias`, [width], { init: "zeros" });
    return withScope(name, () =>
      ops.gelu(ops.conv(x, weight, shift, { strides: [stride], pads: [1, 1], dilations: [1] })),
    );
  };
  const first = conv(`${root}conv1`, features, mels, 1);
  const second = conv(`${root}conv2`, first, width, 2);
  const places = embeddingLayer(params, `${root}embed_positions`, ops.arange(length), [length, width]);
  const states = withScope(`${root}`.slice(0, -1), () => ops.add(ops.transpose(second, [0, 2, 1]), places));
  let x: Tokens = { rows: flatTokens(states), batch: features.shape[0] as Dim, length, like: features };
  const boundaries = [x.rows];
  const sizes = {
    heads: config.encoder_attention_heads,
    inner: config.encoder_ffn_dim,
    act: config.activation_function,
  };
  for (let layer = 0; layer < config.encoder_layers; layer++) {
    const path = `${root}layers.${layer}`;
    const y = normed(params, `${path}.self_attn_layer_norm`, x);
    const attended = attention(params, `${path}.self_attn`, y, y, { heads: sizes.heads });
    x = feedForward(params, path, plus(path, x, attended.rows), sizes);
    boundaries.push(x.rows);
  }
  const last = normed(params, `${root}layer_norm`, x);
  return { encoded: { ...last, rows: ops.keep(last.rows) }, boundaries };
}

function decode(config: Config, params: Params, inputs: TensorInputs, encoded: Tokens) {
  const { d_model: width, decoder_attention_heads: heads } = config;
  const root = "model.decoder.";
  const places = decoderPlaces(inputs);
  const words = embeddingLayer(params, `${root}embed_tokens`, places.ids, [config.vocab_size, width]);
  const table = [config.max_target_positions, width] as const;
  const spots = embeddingLayer(params, `${root}embed_positions`, places.positions, table);
  const { batch, length, mask } = places;
  let x: Tokens = { rows: flatTokens(ops.add(words, spots)), batch, length, like: places.ids };
  const boundaries = [x.rows];
  const present: KeyValue[] = [];
  const cross: KeyValue[] = [];
  const sizes = { heads, inner: config.decoder_ffn_dim, act: config.activation_function };
  for (let layer = 0; layer < config.decoder_layers; layer++) {
    const path = `${root}layers.${layer}`;
    const y = normed(params, `${path}.self_attn_layer_norm`, x);
    const own = attention(params, `${path}.self_attn`, y, y, { heads, mask, past: places.past(layer) });
    present.push(own.present);
    x = plus(path, x, own.rows);
    const z = normed(params, `${path}.encoder_attn_layer_norm`, x);
    const read = attention(params, `${path}.encoder_attn`, z, encoded, { heads });
    cross.push(read.present);
    x = feedForward(params, path, plus(path, x, read.rows), sizes);
    boundaries.push(x.rows);
  }
  const hidden = normed(params, `${root}layer_norm`, x);
  return { hidden, boundaries, decoding: { present, cross, encoded: encoded.rows } };
}

function transcribe(config: Config, params: Params, inputs: TensorInputs): TensorOutputs {
  const features = inputs.values.input_features as Value;
  const { encoded, boundaries } = encode(config, params, features, "model.encoder.");
  const { hidden, ...decoded } = decode(config, params, inputs, encoded);
  const tied = config.tie_word_embeddings;
  const table = tied ? "model.decoder.embed_tokens.weight" : "proj_out.weight";
  const weight = params(table, [config.vocab_size, config.d_model]);
  const rows = withScope("proj_out", () => ops.gemm(hidden.rows, weight, undefined, { transB: true }));
  return {
    values: {
      logits: asSequences({ ...hidden, rows }),
      encoder_last_hidden_state: asSequences(encoded),
    },
    boundaries: [...boundaries, ...decoded.boundaries],
    decoding: decoded.decoding,
  };
}

/** The mean of projected states, and classes of it. */
function classify(config: Config, params: Params, { values }: TensorInputs): TensorOutputs {
  const { encoded, boundaries } = encode(config, params, values.input_features as Value, "encoder.");
  const states = config.use_weighted_layer_sum ? weightedLayers(params, encoded, boundaries) : encoded.rows;
  const size = config.classifier_proj_size;
  const rows = linearLayer(params, "projector", states, size, { head: true });
  const mean = ops.reduceMean(asSequences({ ...encoded, rows }), [1], false);
  const logits = linearLayer(params, "classifier", mean, labelsOf(config).length, { head: true });
  return { values: { logits }, boundaries };
}

/** What enters each block and what leaves the last, normed, weighted by a trained softmax. */
function weightedLayers(params: Params, encoded: Tokens, boundaries: readonly Value[]): Value {
  const layers = [...boundaries.slice(0, -1), encoded.rows];
  const weight = params("layer_weights", [layers.length], { init: "ones", head: true });
  return withScope("layer_weights", () => {
    const shares = ops.split(ops.softmax(weight), new Array(layers.length).fill(1), 0);
    return layers.map((x, at) => ops.mul(x, shares[at] as Value)).reduce((a, b) => ops.add(a, b));
  });
}

function describe(config: Config, task: TensorDescription["task"]): TensorDescription {
  const features = {
    name: "input_features",
    dtype: "float32",
    shape: ["batch", config.num_mel_bins, 2 * config.max_source_positions],
  } as const;
  const common = { task, defaultTargets: ["q_proj", "v_proj"] };
  if (task === "audio-classification") {
    return { ...common, inputs: [features], probeAxes: { batch: 1 }, labels: labelsOf(config) };
  }
  const ids = {
    name: "decoder_input_ids",
    dtype: "int64",
    shape: ["batch", "decoder_length"],
    below: config.vocab_size,
  } as const;
  return {
    ...common,
    inputs: [features, ids],
    probeAxes: { batch: 1, decoder_length: 4 },
    decoder: {
      vocabSize: config.vocab_size,
      layers: config.decoder_layers,
      kvHeads: config.decoder_attention_heads,
      headDim: config.d_model / config.decoder_attention_heads,
      maxPositions: config.max_target_positions,
      startId: config.decoder_start_token_id ?? 0,
    },
  };
}

const lay = (config: Config, params: Params, inputs: TensorInputs, task: string) =>
  task === "audio-classification" ? classify(config, params, inputs) : transcribe(config, params, inputs);

/** Whisper: speech to text, from log-mel features; its encoder with a head for classes of sounds. */
export const whisper: TensorArchitecture<Config> = {
  modelTypes: ["whisper"],
  schema,
  tasks: ["seq2seq", "audio-classification"],
  ignored: /^proj_out\.|^model\.decoder\./,
  taskOf: (config, weights) => {
    const classifies =
      weights.size > 0
        ? weights.has("classifier.weight")
        : config.architectures?.includes("WhisperForAudioClassification");
    return classifies ? "audio-classification" : "seq2seq";
  },
  describe,
  // The transcribing model holds encoder and decoder in `model`; the classifier has the encoder at its top.
  rename(name, _, __, task) {
    const bare = name.replace(/^model\.(?=(en|de)coder\.)/, "");
    if (task === "audio-classification") return bare;
    return /^(en|de)coder\./.test(bare) ? `model.${bare}` : name;
  },
  className: (_, task) =>
    task === "audio-classification" ? "WhisperForAudioClassification" : "WhisperForConditionalGeneration",
  untied: { head: "proj_out.weight", config: () => ({ tie_word_embeddings: false }) },
  weightSpecs: (config, task) =>
    recordSpecs(describe(config, task), (params, inputs) => lay(config, params, inputs, task)),
  build: (config, weights, inputs, task) => lay(config, paramsOf(weights), inputs, task),
};
