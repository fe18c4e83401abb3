import { z } from "zod";
import { type DeftProjectionConfig, deftProjectionMethod } from "../lowrank/deft-projection.js";
import { type OsfConfig, osfMethod } from "../orthogonal/osf.js";
import { parsePart } from "./config-part.js";
import type { PeftMapping } from "./mapping.js";

const kept = z.number().positive();

const renamed = (table: Readonly<Record<string, number>>, rename: (key: string) => string) =>
  Object.fromEntries(Object.entries(table).map(([key, value]) => [rename(key), value]));

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
    fan_in_fan_out: [...sites.values()].some(({ orientation }) => orientation === "in-out"),
    init_scale: 1,
    init_weights: true,
  }),
  suffix: (key) => key,
};
