import { z } from "zod";
import { type BertConfig, bertBlock, bertSchema, bertSizes } from "./bert.js";
import type { TextFamily } from "./parts/text-encoder.js";
import { textArchitecture } from "./parts/text-heads.js";

const schema = bertSchema.extend({ embedding_size: z.number().int().positive().default(128) });
type Config = BertConfig & z.infer<typeof schema>;

const family: TextFamily<Config> = {
  modelTypes: ["electra"],
  schema,
  prefix: "electra",
  classes: { electra: "Electra" },
  defaultTargets: ["query", "value"],
  block: bertBlock,
  words: {
    dense: "generator_predictions.dense",
    norm: "generator_predictions.LayerNorm",
    decoder: "generator_lm_head",
    bias: "generator_lm_head.bias",
    activation: "gelu",
  },
  sentence: {
    dense: "classifier.dense",
    inBody: false,
    activation: "gelu",
    classes: "classifier.out_proj",
  },
  sizes: (config) => ({
    ...bertSizes(config),
    embedding: config.embedding_size,
    projection: config.embedding_size === config.hidden_size ? undefined : "embeddings_project",
  }),
  layer: (_, layer) => `encoder.layer.${layer}`,
};

/** ELECTRA: BERT with narrower embeddings; its discriminator is the body that heads are put on. */
export const electra = textArchitecture(family);
