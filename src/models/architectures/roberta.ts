import { type BertConfig, bertBlock, bertSchema, bertSizes } from "./bert.js";
import type { TextFamily } from "./parts/text-encoder.js";
import { textArchitecture } from "./parts/text-heads.js";

const family: TextFamily<BertConfig> = {
  modelTypes: ["roberta", "xlm-roberta", "camembert"],
  schema: bertSchema,
  prefix: "roberta",
  classes: { roberta: "Roberta", "xlm-roberta": "XLMRoberta", camembert: "Camembert" },
  defaultTargets: ["query", "value"],
  block: bertBlock,
  words: {
    dense: "lm_head.dense",
    norm: "lm_head.layer_norm",
    decoder: "lm_head.decoder",
    bias: "lm_head.bias",
    activation: "gelu",
  },
  sentence: {
    dense: "classifier.dense",
    inBody: false,
    activation: "tanh",
    classes: "classifier.out_proj",
  },
  pooler: "pooler.dense",
  sizes: (config) => ({ ...bertSizes(config), countFrom: config.pad_token_id ?? 1 }),
  layer: (_, layer) => `encoder.layer.${layer}`,
};

/** RoBERTa, XLM-RoBERTa and CamemBERT: BERT with positions that count from the padding id, and other heads. */
export const roberta = textArchitecture(family);
