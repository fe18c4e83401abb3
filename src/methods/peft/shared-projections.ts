import { z } from "zod";
import { type PveraConfig, pveraMethod } from "../lowrank/pvera.js";
import { type VeraConfig, veraMethod } from "../lowrank/vera.js";
import { parsePart } from "./config-part.js";
import type { PeftMapping } from "./mapping.js";
import { refused } from "./refused.js";

const schema = z.looseObject({
  r: z.number().int().positive().default(256),
  projection_prng_key: z.number().int().nonnegative().default(0),
  save_projection: z.boolean().default(true),
  d_initial: z.number().default(0.1),
});

/** VeRA; `save_projection: false` files hold the seed alone. */
export const veraMapping: PeftMapping<VeraConfig> = {
  peftType: "VERA",
  method: veraMethod,
  biasOnly: "vera_only",
  options(config, file) {
    const own = parsePart(schema.extend({ vera_dropout: z.number().default(0) }), config, file);
    return {
      rank: own.r,
      dropout: own.vera_dropout,
      dInitial: own.d_initial,
      projectionSeed: own.projection_prng_key,
      saveProjection: own.save_projection,
    };
  },
  config: (own) => ({
    r: own.rank,
    vera_dropout: own.dropout,
    d_initial: own.dInitial,
    projection_prng_key: own.projectionSeed,
    save_projection: own.saveProjection,
    fan_in_fan_out: false,
    init_weights: true,
  }),
  suffix: (key) => key,
  sharedName: (key) => `base_model.${key}`,
};

/** PVeRA; PEFT has neither its scale nor the prior's weight. */
export const pveraMapping: PeftMapping<PveraConfig> = {
  peftType: "PVERA",
  method: pveraMethod,
  biasOnly: "pvera_only",
  options(config, file) {
    refused(config, ["sample_at_inference"], file);
    const own = parsePart(schema, config, file);
    return {
      rank: own.r,
      alpha: 1,
      dInitial: own.d_initial,
      projectionSeed: own.projection_prng_key,
      saveProjection: own.save_projection,
    };
  },
  config: (own) => ({
    r: own.rank,
    pvera_dropout: 0,
    d_initial: own.dInitial,
    projection_prng_key: own.projectionSeed,
    save_projection: own.saveProjection,
    sample_at_inference: false,
    fan_in_fan_out: false,
    init_weights: true,
  }),
  suffix: (key) => key,
  sharedName: (key) => `base_model.${key}`,
  // The file has no scale: it goes into λ_b.
  toFile: (data, key, _, { alpha }) =>
    key === "pvera_lambda_b" && alpha !== 1 ? (data as Float32Array).map((value) => value * alpha) : data,
};
