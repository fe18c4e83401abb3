import { z } from "zod";
import { type RandloraConfig, randloraMethod } from "../lowrank/randlora.js";
import { type VbloraConfig, vbloraMethod } from "../lowrank/vblora.js";
import { parsePart } from "./config-part.js";
import type { PeftMapping } from "./mapping.js";
import { refused } from "./refused.js";

const size = (standard: number) => z.number().int().positive().default(standard);

const densityOf = (isSparse: boolean, isVerySparse: boolean): RandloraConfig["density"] =>
  isVerySparse ? "very-sparse" : isSparse ? "sparse" : "dense";

/** RandLoRA; PEFT writes the bases once for the model, and a copy for every module. */
export const randloraMapping: PeftMapping<RandloraConfig> = {
  peftType: "RANDLORA",
  method: randloraMethod,
  biasOnly: "randlora_only",
  options(config, file) {
    const own = parsePart(
      z.looseObject({
        r: size(32),
        randlora_alpha: z.number().positive().default(640),
        randlora_dropout: z.number().default(0),
        projection_prng_key: z.number().int().nonnegative().default(0),
        save_projection: z.boolean().default(true),
        sparse: z.boolean().default(false),
        very_sparse: z.boolean().default(false),
      }),
      config,
      file,
    );
    return {
      rank: own.r,
      alpha: own.randlora_alpha,
      dropout: own.randlora_dropout,
      projectionSeed: own.projection_prng_key,
      saveProjection: own.save_projection,
      density: densityOf(own.sparse, own.very_sparse),
    };
  },
  config: (own) => ({
    r: own.rank,
    randlora_alpha: own.alpha,
    randlora_dropout: own.dropout,
    projection_prng_key: own.projectionSeed,
    save_projection: own.saveProjection,
    sparse: own.density === "sparse",
    very_sparse: own.density === "very-sparse",
    fan_in_fan_out: false,
    init_weights: true,
  }),
  suffix: (key) => key,
  sharedName: (key) => `base_model.${key}`,
  ignores: (suffix) => suffix === "randlora_A" || suffix === "randlora_B",
};

/** VB-LoRA. Files with the chosen vectors alone cannot be trained further and are not read. */
export const vbloraMapping: PeftMapping<VbloraConfig> = {
  peftType: "VBLORA",
  method: vbloraMethod,
  biasOnly: "vblora_only",
  options(config, file) {
    refused(config, ["save_only_topk_weights"], file);
    const own = parsePart(
      z.looseObject({
        r: size(4),
        num_vectors: size(256),
        vector_length: size(256),
        topk: size(2),
        vblora_dropout: z.number().default(0),
        init_vector_bank_bound: z.number().default(0.02),
        init_logits_std: z.number().default(0.1),
      }),
      config,
      file,
    );
    return {
      rank: own.r,
      vectors: own.num_vectors,
      vectorLength: own.vector_length,
      topK: own.topk,
      dropout: own.vblora_dropout,
      bankBound: own.init_vector_bank_bound,
      logitStd: own.init_logits_std,
    };
  },
  config: (own) => ({
    r: own.rank,
    num_vectors: own.vectors,
    vector_length: own.vectorLength,
    topk: own.topK,
    vblora_dropout: own.dropout,
    init_vector_bank_bound: own.bankBound,
    init_logits_std: own.logitStd,
    save_only_topk_weights: false,
    fan_in_fan_out: false,
  }),
  suffix: (key) => key,
  sharedName: (key) => `base_model.${key}`,
};
