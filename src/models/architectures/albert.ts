import { z } from "zod";
import { type BertConfig, bertSchema, bertSizes } from "./bert.js";
import type { TextFamily } from "./parts/text-encoder.js";
import { textArchitecture } from "./parts/text-heads.js";

const schema = bertSchema.extend({
  embedding_size: z.number().int().positive().default(128),
  num_hidden_groups: z.number().int().positive().default(1),
  inner_group_num: z.literal(1).default(1),
  hidden_act: z.string().default("gelu_new"),
});
type Config = BertConfig & z.infer<typeof schema>;

const family: TextFamily<Config> = {
  modelTypes: ["albert"],
  schema,
  prefix: "albert",
  classes: { albert: "Albert" },
  defaultTargets: ["query", "value"],
  block: {
    query: "attention.query",
    key: "attention.key",
    value: "attention.value",
    output: "attention.dense",
    attentionNorm: "attention.LayerNorm",
    up: "ffn",
    down: "ffn_output",
    norm: "full_layer_layer_norm",
  },
  words: {
    dense: "predictions.dense",
    norm: "predictions.LayerNorm",
    decoder: "predictions.decoder",
    bias: "predictions.bias",
  },
  sentence: { dense: "pooler", inBody: true, activation: "tanh", classes: "classifier" },
  pooler: "pooler",
  sizes: (config) => ({
    ...bertSizes(config),
    embedding: config.embedding_size,
    projection: "encoder.embedding_hidden_mapping_in",
  }),
  layer({ num_hidden_layers: layers, num_hidden_groups: groups }, layer) {
    return `encoder.albert_layer_groups.${Math.floor((layer * groups) / layers)}.albert_layers.0`;
  },
};

/** ALBERT: BERT whose layers share their weights, with narrow embeddings. */
export const albert = textArchitecture(family);
