import { z } from "zod";
import { labelsSchema } from "./parts/labels.js";
import type { TextFamily } from "./parts/text-encoder.js";
import { textArchitecture } from "./parts/text-heads.js";

const schema = z.looseObject({
  model_type: z.string(),
  vocab_size: z.number().int().positive(),
  dim: z.number().int().positive().default(768),
  hidden_dim: z.number().int().positive().default(3072),
  n_layers: z.number().int().positive().default(6),
  n_heads: z.number().int().positive().default(12),
  max_position_embeddings: z.number().int().positive().default(512),
  activation: z.string().default("gelu"),
  tie_word_embeddings: z.boolean().default(true),
  ...labelsSchema,
});
type Config = z.infer<typeof schema>;

const family: TextFamily<Config> = {
  modelTypes: ["distilbert"],
  schema,
  prefix: "distilbert",
  classes: { distilbert: "DistilBert" },
  defaultTargets: ["q_lin", "v_lin"],
  block: {
    query: "attention.q_lin",
    key: "attention.k_lin",
    value: "attention.v_lin",
    output: "attention.out_lin",
    attentionNorm: "sa_layer_norm",
    up: "ffn.lin1",
    down: "ffn.lin2",
    norm: "output_layer_norm",
  },
  words: {
    dense: "vocab_transform",
    norm: "vocab_layer_norm",
    decoder: "vocab_projector",
    bias: "vocab_projector.bias",
  },
  sentence: { dense: "pre_classifier", inBody: false, activation: "relu", classes: "classifier" },
  sizes: (config) => ({
    vocab: config.vocab_size,
    positions: config.max_position_embeddings,
    types: 0,
    embedding: config.dim,
    width: config.dim,
    inner: config.hidden_dim,
    layers: config.n_layers,
    heads: config.n_heads,
    activation: config.activation,
    epsilon: 1e-12,
    tied: config.tie_word_embeddings,
  }),
  layer: (_, layer) => `transformer.layer.${layer}`,
};

/** DistilBERT: BERT of half the depth, without token types and pooler. */
export const distilbert = textArchitecture(family);
