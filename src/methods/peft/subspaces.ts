import { z } from "zod";
import { TunesmithError } from "../../errors/index.js";
import type { Adapter } from "../adapter.js";
import { type DeftProjectionConfig, deftProjectionMethod } from "../lowrank/deft-projection.js";
import { type FrodConfig, frodMethod } from "../lowrank/frod.js";
import { type OsfConfig, osfMethod } from "../orthogonal/osf.js";
import { parsePart } from "./config-part.js";
import type { PeftMapping } from "./mapping.js";
import { ownConfig } from "./own.js";

const kept = z.number().positive();

const renamed = (table: Readonly<Record<string, number>>, rename: (key: string) => string) =>
  Object.fromEntries(Object.entries(table).map(([key, value]) => [rename(key), value]));

const isTransposed = (sites: Adapter["sites"]) =>
  [...sites.values()].some(({ orientation }) => orientation === "in-out");

/** OSF. Its patterns are searched anywhere in a path, ours match the end of one. */
export const osfMapping: PeftMapping<OsfConfig> = {
  peftType: "OSF",
  method: osfMethod,
  options(config, file) {
    const own = parsePart(
      z.looseObject({ effective_rank: kept.nullish(), rank_pattern: z.record(z.string(), kept).nullish() }),
      config,
      file,
    );
    return {
      keptRank: own.effective_rank ?? undefined,
      keptPattern: renamed(own.rank_pattern ?? {}, (key) => `.*(?:${key}).*`),
    };
  },
  config: (own) => ({
    effective_rank: own.keptRank ?? null,
    rank_pattern: renamed(own.keptPattern, (key) => `^(.*\\.)?(${key})$`),
    init_weights: true,
    target_svd_config: null,
  }),
  suffix: (key) => `osf_svd_params.${key}`,
};

/** DEFT: projections learned in the outputs. */
export const deftProjectionMapping: PeftMapping<DeftProjectionConfig> = {
  peftType: "DEFT",
  method: deftProjectionMethod,
  biasOnly: "deft_only",
  options(config, file) {
    const own = parsePart(
      z.looseObject({
        r: z.number().int().positive().default(8),
        decomposition_method: z.enum(["relu", "qr"]).default("relu"),
        alpha: z.number().nonnegative().nullish(),
        para: z.boolean().default(false),
        deft_dropout: z.number().default(0),
      }),
      config,
      file,
    );
    return {
      rank: own.r,
      projection: own.decomposition_method,
      // PEFT takes an alpha of 0 for none.
      alpha: own.alpha || undefined,
      removeOnly: own.para,
      dropout: own.deft_dropout,
    };
  },
  config: (own, { sites }) => ({
    r: own.rank,
    decomposition_method: own.projection,
    alpha: own.alpha ?? null,
    para: own.removeOnly,
    deft_dropout: own.dropout,
    fan_in_fan_out: isTransposed(sites),
    init_scale: 1,
    init_weights: true,
  }),
  suffix: (key) => key,
};

const ownFrod = (own: FrodConfig) => ({
  ...ownConfig("frod", own),
  ...(own.bias === "adapted" ? { bias: "adapted_only" } : {}),
});

const peftFrod = (own: FrodConfig, sites: Adapter["sites"]) => ({
  projection_prng_key: own.positionSeed,
  save_projection: true,
  frod_dropout: own.dropout,
  sparse_rate: own.sparseRate,
  regularization_alpha: own.ridge,
  fan_in_fan_out: isTransposed(sites),
  init_weights: true,
  progressbar: true,
  runtime_offload_base_weight: false,
});

/**
 * FRoD. Signs and order of eigenvectors differ from program to program. So a file without its basis cannot be read, and PEFT,
 * which computes U from a basis of its own in any case, cannot read ours: those are written under our name.
 */
export const frodMapping: PeftMapping<FrodConfig> = {
  peftType: "FROD",
  method: frodMethod,
  biasOnly: "frod_only",
  options(config, file) {
    const own = parsePart(
      z.looseObject({
        projection_prng_key: z.number().int().nonnegative().default(0),
        save_projection: z.boolean().default(true),
        frod_dropout: z.number().default(0),
        sparse_rate: z.number().default(0.01),
        regularization_alpha: z.number().default(1e-3),
      }),
      config,
      file,
    );
    if (!own.save_projection) {
      throw new TunesmithError(
        "adapter-invalid",
        `${file}: 'save_projection' is false: the basis that the adapter was trained in is not in the folder`,
        { fix: "load it where it was made, set save_projection to true, and save it again" },
      );
    }
    return {
      sparseRate: own.sparse_rate,
      ridge: own.regularization_alpha,
      positionSeed: own.projection_prng_key,
      dropout: own.frod_dropout,
      basis: "peft",
    };
  },
  config: (own, { sites }) => (own.basis === "own" ? ownFrod(own) : peftFrod(own, sites)),
  suffix: (key) => (key.startsWith("frod_lambda") ? key : undefined),
  sharedName: (key) => `base_model.${key}`,
};
