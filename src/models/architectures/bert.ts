import { z } from "zod";
import { labelsSchema } from "./parts/labels.js";
import type { BlockNames, TextFamily, TextSizes } from "./parts/text-encoder.js";
import { textArchitecture } from "./parts/text-heads.js";

/** Configs of BERT and of those that took over its settings. */
export const bertSchema = z.looseObject({
  model_type: z.string(),
  vocab_size: z.number().int().positive(),
  hidden_size: z.number().int().positive(),
  intermediate_size: z.number().int().positive(),
  num_hidden_layers: z.number().int().positive(),
  num_attention_heads: z.number().int().positive(),
  max_position_embeddings: z.number().int().positive().default(512),
  type_vocab_size: z.number().int().nonnegative().default(2),
  hidden_act: z.string().default("gelu"),
  layer_norm_eps: z.number().default(1e-12),
  pad_token_id: z.number().int().nonnegative().nullish(),
  // Later versions of the family had relative ones, which nothing published uses.
  position_embedding_type: z.literal("absolute").nullish(),
  tie_word_embeddings: z.boolean().default(true),
  ...labelsSchema,
});
export type BertConfig = z.infer<typeof bertSchema>;

export const bertSizes = (config: BertConfig): TextSizes => ({
  vocab: config.vocab_size,
  positions: config.max_position_embeddings,
  types: config.type_vocab_size,
  embedding: config.hidden_size,
  width: config.hidden_size,
  inner: config.intermediate_size,
  layers: config.num_hidden_layers,
  heads: config.num_attention_heads,
  activation: config.hidden_act,
  epsilon: config.layer_norm_eps,
  tied: config.tie_word_embeddings,
});

export const bertBlock: BlockNames = {
  query: "attention.self.query",
  key: "attention.self.key",
  value: "attention.self.value",
  output: "attention.output.dense",
  attentionNorm: "attention.output.LayerNorm",
  up: "intermediate.dense",
  down: "output.dense",
  norm: "output.LayerNorm",
};

const family: TextFamily<BertConfig> = {
  modelTypes: ["bert"],
  schema: bertSchema,
  prefix: "bert",
  classes: { bert: "Bert" },
  defaultTargets: ["query", "value"],
  block: bertBlock,
  words: {
    dense: "cls.predictions.transform.dense",
    norm: "cls.predictions.transform.LayerNorm",
    decoder: "cls.predictions.decoder",
    bias: "cls.predictions.bias",
  },
  sentence: { dense: "pooler.dense", inBody: true, activation: "tanh", classes: "classifier" },
  pooler: "pooler.dense",
  sizes: bertSizes,
  layer: (_, layer) => `encoder.layer.${layer}`,
};

/** BERT and what shares its form: MiniLM, E5, BGE, GTE (`model_type: bert`). */
export const bert = textArchitecture(family);
