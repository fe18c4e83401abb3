import { z } from "zod";
import { type TinyloraConfig, tinyloraMethod } from "../lowrank/tinylora.js";
import { type UniloraConfig, uniloraMethod } from "../lowrank/unilora.js";
import { type SupertuningConfig, supertuningMethod } from "../sparse/supertuning.js";
import { parsePart } from "./config-part.js";
import type { PeftMapping } from "./mapping.js";

const size = (standard: number) => z.number().int().positive().default(standard);
const seed = z.number().int().nonnegative().default(42);

/** Of tensors that belong to one module but are made for all at once. */
const ofModule = (key: string) => `base_model.model.${key}`;

/** TinyLoRA; `save_projection: false` files hold the seed of P alone. */
export const tinyloraMapping: PeftMapping<TinyloraConfig> = {
  peftType: "TINYLORA",
  method: tinyloraMethod,
  biasOnly: "tinylora_only",
  options(config, file) {
    const own = parsePart(
      z.looseObject({
        r: size(2),
        u: size(64),
        weight_tying: z.number().min(0).max(1).default(0),
        tinylora_dropout: z.number().default(0),
        init_weights: z.union([z.boolean(), z.literal("uniform")]).default(true),
        init_v_bound: z.number().default(0.02),
        projection_seed: seed,
        save_projection: z.boolean().default(true),
      }),
      config,
      file,
    );
    return {
      rank: own.r,
      vectorLength: own.u,
      weightTying: own.weight_tying,
      dropout: own.tinylora_dropout,
      bound: own.init_weights === "uniform" ? own.init_v_bound : 0,
      projectionSeed: own.projection_seed,
      saveProjection: own.save_projection,
    };
  },
  config: (own) => ({
    r: own.rank,
    u: own.vectorLength,
    weight_tying: own.weightTying,
    tinylora_dropout: own.dropout,
    init_weights: own.bound > 0 ? "uniform" : true,
    init_v_bound: own.bound > 0 ? own.bound : 0.02,
    projection_seed: own.projectionSeed,
    save_projection: own.saveProjection,
    fan_in_fan_out: false,
  }),
  suffix: (key) => (key === "tinylora_v" || key === "tinylora_P" ? undefined : key),
  sharedName: (key) => (key.startsWith("tinylora_v.") ? `base_model.${key}` : ofModule(key)),
};

/** Uni-LoRA; files hold the numbers, and the seed of their places. */
export const uniloraMapping: PeftMapping<UniloraConfig> = {
  peftType: "UNILORA",
  method: uniloraMethod,
  biasOnly: "unilora_only",
  options(config, file) {
    const own = parsePart(
      z.looseObject({
        r: size(4),
        theta_d_length: size(256),
        proj_seed: seed,
        unilora_dropout: z.number().default(0),
        init_theta_d_bound: z.number().positive().default(0.02),
        save_indices: z.boolean().default(false),
      }),
      config,
      file,
    );
    return {
      rank: own.r,
      thetaLength: own.theta_d_length,
      projectionSeed: own.proj_seed,
      dropout: own.unilora_dropout,
      bound: own.init_theta_d_bound,
      saveIndices: own.save_indices,
    };
  },
  config: (own) => ({
    r: own.rank,
    theta_d_length: own.thetaLength,
    proj_seed: own.projectionSeed,
    unilora_dropout: own.dropout,
    init_theta_d_bound: own.bound,
    save_indices: own.saveIndices,
    init_weights: true,
    fan_in_fan_out: false,
  }),
  suffix: () => undefined,
  sharedName: (key) => (key === "unilora_theta_d" ? `base_model.${key}` : ofModule(key)),
};

/** Super-Tuning; `save_precomputed_indices: false` files hold the numbers alone, in the order of the base's magnitudes. */
export const supertuningMapping: PeftMapping<SupertuningConfig> = {
  peftType: "SUPERTUNING",
  method: supertuningMethod,
  options(config, file) {
    const own = parsePart(
      z.looseObject({
        sparsity: z.number().default(0.99),
        select_top: z.boolean().default(true),
        r: z.number().int().positive().nullish(),
        lora_alpha: z.number().nullish(),
        lora_dropout: z.number().default(0),
        save_precomputed_indices: z.boolean().default(true),
      }),
      config,
      file,
    );
    return {
      sparsity: own.sparsity,
      select: own.select_top ? "largest" : "smallest",
      rank: own.r ?? undefined,
      alpha: own.lora_alpha ?? undefined,
      dropout: own.lora_dropout,
      saveIndices: own.save_precomputed_indices,
    };
  },
  config: (own) => ({
    sparsity: own.sparsity,
    select_top: own.select === "largest",
    r: own.rank ?? null,
    lora_alpha: own.rank === undefined ? null : (own.alpha ?? 2 * own.rank),
    lora_dropout: own.dropout,
    save_precomputed_indices: own.saveIndices,
    init_weights: true,
  }),
  suffix: (key) => (key.startsWith("supertuning_lora") ? `${key}.weight` : key),
};
