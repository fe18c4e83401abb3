import { z } from "zod";
import { overExperts, type XloraConfig, type XloraMethod, xloraOver } from "../mixture/xlora.js";
import { parsePart } from "./config-part.js";
import type { PeftMapping } from "./mapping.js";

const schema = z.looseObject({
  adapters: z.record(z.string(), z.string()),
  xlora_depth: z.number().int().default(1),
  xlora_size: z.number().int().default(2048),
  xlora_dropout_p: z.number().default(0.2),
  layerwise_scalings: z.boolean().default(false),
  enable_softmax: z.boolean().default(true),
  softmax_temperature: z.number().default(1),
  top_k_lora: z.number().int().nullish(),
  enable_softmax_topk: z.boolean().default(false),
  global_scaling_weight: z.number().default(1),
  scaling_pass_value: z.number().default(0),
  use_trainable_adapters: z.boolean().default(false),
});

/** Experts in their order: PEFT calls them `0`, `1`, ... and sorts the names as texts. */
const inOrder = (names: readonly string[]): string[] =>
  names.every((name) => /^\d+$/.test(name)) ? names.toSorted((a, b) => Number(a) - Number(b)) : [...names];

/**
 * X-LoRA: the classifier in the folder's own file, the experts in folders below it, named by their numbers. PEFT 0.21 leaves
 * tensors out of both when it saves them, those with an expert's number in their name.
 */
export const xloraMapping: PeftMapping<XloraConfig> = {
  peftType: "XLORA",
  method: xloraOver([]),
  options(config, file) {
    const own = parsePart(schema, config, file);
    return {
      experts: inOrder(Object.keys(own.adapters)).map((name) => own.adapters[name]),
      depth: own.xlora_depth,
      width: own.xlora_size,
      dropout: own.xlora_dropout_p,
      layerwise: own.layerwise_scalings,
      softmax: own.enable_softmax,
      temperature: own.softmax_temperature,
      ...(own.top_k_lora == null ? {} : { topK: own.top_k_lora }),
      softmaxTopK: own.enable_softmax_topk,
      globalWeight: own.global_scaling_weight,
      passValue: own.scaling_pass_value,
      trainExperts: own.use_trainable_adapters,
    };
  },
  config: (own) => ({
    adapters: Object.fromEntries(own.experts.map((folder, at) => [String(at), folder])),
    hidden_size: own.hiddenSize,
    xlora_depth: own.depth,
    xlora_size: own.width,
    xlora_dropout_p: own.dropout,
    layerwise_scalings: own.layerwise,
    enable_softmax: own.softmax,
    softmax_temperature: own.temperature,
    top_k_lora: own.topK ?? null,
    enable_softmax_topk: own.softmaxTopK,
    global_scaling_weight: own.globalWeight,
    scaling_pass_value: own.passValue,
    use_trainable_adapters: own.trainExperts,
    target_modules: undefined,
  }),
  suffix: () => undefined,
  sharedName: (key) => (key.startsWith("classifier.") ? `base_model.internal_xlora_${key}` : undefined),
  async completed({ config }, { model, read }) {
    const experts = await Promise.all(config.experts.map((folder, at) => read(at, folder)));
    return overExperts(model, config, experts);
  },
  parts: ({ adaptation }) =>
    new Map((adaptation.method as unknown as XloraMethod).experts.map((expert, at) => [String(at), expert])),
};
