import { z } from "zod";
import { type Dim, ops, type Value, withScope } from "../../graph/index.js";
import type { InputSpec, KeyValue, TensorInputs, TensorOutputs } from "../types.js";
import type { TensorArchitecture, TensorDescription } from "./definition.js";
import { paddingMask } from "./parts/attention.js";
import { decoderPlaces } from "./parts/decoder.js";
import { activation } from "./parts/layers.js";
import { embeddingLayer, flatTokens, linearLayer } from "./parts/modules.js";
import { asSequences, multiHead, type Tokens } from "./parts/multi-head.js";
import { type Params, paramsOf, recordSpecs } from "./parts/params.js";
import { pooled, poolingSchema } from "./parts/pooling.js";
import { rowPositions } from "./parts/positions.js";
import { relativeBias } from "./parts/relative-bias.js";

const schema = z.looseObject({
  model_type: z.string(),
  vocab_size: z.number().int().positive(),
  d_model: z.number().int().positive(),
  d_kv: z.number().int().positive(),
  d_ff: z.number().int().positive(),
  num_layers: z.number().int().positive(),
  num_decoder_layers: z.number().int().positive().nullish(),
  num_heads: z.number().int().positive(),
  relative_attention_num_buckets: z.number().int().positive().default(32),
  relative_attention_max_distance: z.number().int().positive().max(100_000).default(128),
  layer_norm_epsilon: z.number().default(1e-6),
  initializer_factor: z.number().default(1),
  feed_forward_proj: z.string().default("relu"),
  tie_word_embeddings: z.boolean().nullish(),
  scale_decoder_outputs: z.boolean().nullish(),
  decoder_start_token_id: z.number().int().nonnegative().nullish(),
  pad_token_id: z.number().int().nonnegative().nullish(),
  sentence_pooling: poolingSchema.nullish(),
});
type Config = z.infer<typeof schema>;
type Stack = "encoder" | "decoder";

/** Version 1.0 ties the head to the embedding and scales what enters it; 1.1 and mT5 do neither. */
const scalesOutput = (config: Config) =>
  config.model_type !== "mt5" && (config.scale_decoder_outputs ?? config.tie_word_embeddings !== false);

/** Version 1.0 files may hold a copy of the embedding there. */
const hasOwnHead = (config: Config, stored: boolean) =>
  stored && (config.tie_word_embeddings === false || !scalesOutput(config));

function norm(config: Config, params: Params, name: string, x: Value): Value {
  const scale = params(`${name}.weight`, [config.d_model], { init: "ones" });
  return withScope(name, () => ops.rmsNorm(x, scale, config.layer_norm_epsilon));
}

function embed(config: Config, params: Params, ids: Value): Tokens {
  const table = [config.vocab_size, config.d_model] as const;
  const rows = flatTokens(embeddingLayer(params, "shared", ids, table, { std: config.initializer_factor }));
  return { rows, batch: ids.shape[0] as Dim, length: ids.shape[1] as Dim, like: ids };
}

function attention(
  config: Config,
  params: Params,
  path: string,
  x: Tokens,
  source: Tokens,
  options: { readonly mask: Value; readonly past?: KeyValue | undefined },
) {
  const { num_heads: heads, d_kv: dim, d_model: width, initializer_factor: factor } = config;
  const std = {
    query: factor * (width * dim) ** -0.5,
    key: factor * width ** -0.5,
    value: factor * width ** -0.5,
    output: factor * (heads * dim) ** -0.5,
  };
  const names = { query: `${path}.q`, key: `${path}.k`, value: `${path}.v`, output: `${path}.o` };
  return multiHead(params, names, x, source, { heads, dim, scale: 1, bias: false, std, ...options });
}

function feedForward(config: Config, params: Params, path: string, x: Value): Value {
  const { d_ff: inner, d_model: width, feed_forward_proj: kind, initializer_factor: factor } = config;
  const gated = kind.startsWith("gated-");
  const name = kind === "gated-gelu" ? "gelu_new" : kind.replace(/^gated-/, "");
  const up = (part: string) =>
    linearLayer(params, `${path}.${part}`, x, inner, { bias: false, std: factor * width ** -0.5 });
  const active = activation(name)(up(gated ? "wi_0" : "wi"));
  const hidden = gated ? ops.mul(active, up("wi_1")) : active;
  return linearLayer(params, `${path}.wo`, hidden, width, { bias: false, std: factor * inner ** -0.5 });
}

/** A layer of a block: its norm, what it does, and the sum with what came in. */
function residual(
  config: Config,
  params: Params,
  path: string,
  x: Tokens,
  inner: (x: Tokens) => Value,
): Tokens {
  const normed = { ...x, rows: norm(config, params, `${path}.layer_norm`, x.rows) };
  return { ...x, rows: withScope(path, () => ops.keep(ops.add(x.rows, inner(normed)))) };
}

const bias = (config: Config, params: Params, stack: Stack, queries: Value, keys: Value) =>
  relativeBias(params, `${stack}.block.0.layer.0.SelfAttention.relative_attention_bias`, queries, keys, {
    heads: config.num_heads,
    buckets: config.relative_attention_num_buckets,
    maxDistance: config.relative_attention_max_distance,
    bidirectional: stack === "encoder",
    std: config.initializer_factor * config.d_model ** -0.5,
  });

function encode(config: Config, params: Params, values: TensorInputs["values"], seen: Value) {
  let x = embed(config, params, values.input_ids as Value);
  const positions = rowPositions(x.like);
  const mask = ops.keep(ops.add(bias(config, params, "encoder", positions, positions), seen));
  const boundaries = [x.rows];
  for (let block = 0; block < config.num_layers; block++) {
    const path = `encoder.block.${block}.layer`;
    x = residual(
      config,
      params,
      `${path}.0`,
      x,
      (y) => attention(config, params, `${path}.0.SelfAttention`, y, y, { mask }).rows,
    );
    x = residual(config, params, `${path}.1`, x, (y) =>
      feedForward(config, params, `${path}.1.DenseReluDense`, y.rows),
    );
    boundaries.push(x.rows);
  }
  const rows = ops.keep(norm(config, params, "encoder.final_layer_norm", x.rows));
  return { encoded: { ...x, rows }, boundaries };
}

function decode(config: Config, params: Params, inputs: TensorInputs, encoded: Tokens, seen: Value) {
  const places = decoderPlaces(inputs);
  let x = embed(config, params, places.ids);
  const distance = bias(config, params, "decoder", places.positions, places.keyPositions);
  const mask = ops.keep(ops.add(distance, places.mask));
  const present: KeyValue[] = [];
  const cross: KeyValue[] = [];
  const boundaries = [x.rows];
  for (let block = 0; block < (config.num_decoder_layers ?? config.num_layers); block++) {
    const path = `decoder.block.${block}.layer`;
    const past = places.past(block);
    x = residual(config, params, `${path}.0`, x, (y) => {
      const own = attention(config, params, `${path}.0.SelfAttention`, y, y, { mask, past });
      present.push(own.present);
      return own.rows;
    });
    x = residual(config, params, `${path}.1`, x, (y) => {
      const read = attention(config, params, `${path}.1.EncDecAttention`, y, encoded, { mask: seen });
      cross.push(read.present);
      return read.rows;
    });
    x = residual(config, params, `${path}.2`, x, (y) =>
      feedForward(config, params, `${path}.2.DenseReluDense`, y.rows),
    );
    boundaries.push(x.rows);
  }
  const hidden = { ...x, rows: norm(config, params, "decoder.final_layer_norm", x.rows) };
  return { hidden, boundaries, decoding: { present, cross, encoded: encoded.rows } };
}

function head(config: Config, params: Params, hidden: Tokens, own: boolean): Value {
  const { vocab_size: vocab, d_model: width, initializer_factor: std } = config;
  const weight = params(own ? "lm_head.weight" : "shared.weight", [vocab, width], { std });
  const x = scalesOutput(config) ? ops.mul(hidden.rows, width ** -0.5) : hidden.rows;
  const rows = withScope("lm_head", () => ops.gemm(x, weight, undefined, { transB: true }));
  return asSequences({ ...hidden, rows });
}

/** `ownHead`: the head is a matrix of its own, not the embedding. */
function lay(
  config: Config,
  params: Params,
  inputs: TensorInputs,
  { task, ownHead }: { readonly task: string; readonly ownHead: boolean },
): TensorOutputs {
  const mask = inputs.values.attention_mask as Value;
  const seen = paddingMask(mask);
  const { encoded, boundaries } = encode(config, params, inputs.values, seen);
  if (task === "embedding") {
    const pooling = config.sentence_pooling ?? poolingSchema.parse({});
    const vector = pooled(encoded, mask, pooling);
    return {
      values: { sentence_embedding: vector, last_hidden_state: asSequences(encoded) },
      boundaries,
    };
  }
  const decoded = decode(config, params, inputs, encoded, seen);
  return {
    values: {
      logits: head(config, params, decoded.hidden, ownHead),
      encoder_last_hidden_state: asSequences(encoded),
    },
    boundaries: [...boundaries, ...decoded.boundaries],
    decoding: decoded.decoding,
  };
}

function describe(config: Config, task: TensorDescription["task"]): TensorDescription {
  const ids = (name: string, length: string): InputSpec => ({
    name,
    dtype: "int64",
    shape: ["batch", length],
    below: config.vocab_size,
  });
  const mask: InputSpec = { name: "attention_mask", dtype: "int64", shape: ["batch", "length"], fill: 1 };
  const common = { task, defaultTargets: ["q", "v"] };
  const encoder = [ids("input_ids", "length"), mask];
  if (task === "embedding") return { ...common, inputs: encoder, probeAxes: { batch: 1, length: 8 } };
  return {
    ...common,
    inputs: [...encoder, ids("decoder_input_ids", "decoder_length")],
    probeAxes: { batch: 1, length: 8, decoder_length: 4 },
    decoder: {
      vocabSize: config.vocab_size,
      layers: config.num_decoder_layers ?? config.num_layers,
      kvHeads: config.num_heads,
      headDim: config.d_kv,
      maxPositions: Number.POSITIVE_INFINITY,
      startId: config.decoder_start_token_id ?? config.pad_token_id ?? 0,
    },
  };
}

const CLASSES: Readonly<Record<string, string>> = { t5: "T5", mt5: "MT5" };

/** T5, its version 1.1 (gated MLP, untied head), Flan-T5 and mT5; as an encoder alone for vectors of texts. */
export const t5: TensorArchitecture<Config> = {
  modelTypes: ["t5", "mt5"],
  schema,
  tasks: ["seq2seq", "embedding"],
  // Stored copies of the embedding, and a table that old checkpoints carry for cross-attention.
  ignored: /^(en|de)coder\.embed_tokens\.|EncDecAttention\.relative_attention_bias|^lm_head\./,
  taskOf: (config, weights) => {
    const encoderOnly =
      weights.size > 0
        ? !weights.has("decoder.final_layer_norm.weight")
        : [config.architectures].flat().some((name) => String(name).endsWith("EncoderModel"));
    return encoderOnly ? "embedding" : "seq2seq";
  },
  describe,
  className: (config, task) =>
    `${CLASSES[config.model_type]}${task === "embedding" ? "EncoderModel" : "ForConditionalGeneration"}`,
  untied: {
    head: "lm_head.weight",
    config: (config) => ({
      tie_word_embeddings: false,
      scale_decoder_outputs: scalesOutput(schema.parse(config)),
    }),
  },
  weightSpecs: (config, task) =>
    recordSpecs(describe(config, task), (params, inputs) =>
      lay(config, params, inputs, { task, ownHead: false }),
    ),
  build: (config, weights, inputs, task) =>
    lay(config, paramsOf(weights), inputs, {
      task,
      ownHead: hasOwnHead(config, weights.has("lm_head.weight")),
    }),
};
