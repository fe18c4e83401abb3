import { z } from "zod";
import { type DeloraConfig, deloraMethod } from "../lowrank/delora.js";
import { type GraloraConfig, graloraMethod } from "../lowrank/gralora.js";
import { type HiraConfig, hiraMethod } from "../lowrank/hira.js";
import { type MissConfig, missMethod } from "../lowrank/miss.js";
import type { SiteShape } from "../method.js";
import { type RoadConfig, roadMethod } from "../multiplicative/road.js";
import { type C3aConfig, c3aMethod } from "../spectral/c3a.js";
import { parsePart } from "./config-part.js";
import type { PeftMapping } from "./mapping.js";
import { refusedGroups } from "./refused.js";

const table = z.record(z.string(), z.number()).nullish();
const init = z.union([z.boolean(), z.string()]).nullish();
const rank = (standard: number) => z.number().int().positive().default(standard);

/** A convolution's A has its taps, B is a 1 × 1 convolution. */
function convShape(isA: boolean, site: SiteShape, shape: readonly number[]): readonly number[] {
  const { conv, inFeatures } = site;
  if (!conv) return shape;
  refusedGroups(site);
  const channels = inFeatures / conv.kernel.reduce((a, b) => a * b, 1);
  return isA ? [shape[0] as number, channels, ...conv.kernel] : [...shape, ...conv.kernel.map(() => 1)];
}

/** HiRA. PEFT reads a rank_pattern and makes every module of rank r all the same. */
export const hiraMapping: PeftMapping<HiraConfig> = {
  peftType: "HIRA",
  method: hiraMethod,
  options(config, file) {
    const own = parsePart(
      z.looseObject({
        r: rank(32),
        hira_dropout: z.number().default(0),
        init_weights: init,
      }),
      config,
      file,
    );
    return {
      rank: own.r,
      dropout: own.hira_dropout,
      init: own.init_weights === "gaussian" ? "gaussian" : "default",
    };
  },
  config: (own) => ({
    r: own.rank,
    hira_dropout: own.dropout,
    init_weights: own.init === "gaussian" ? "gaussian" : true,
    fan_in_fan_out: false,
  }),
  suffix: (key) => key,
  fileShape: (key, site, shape) => convShape(key === "hira_A", site, shape),
};

/** MiSS. */
export const missMapping: PeftMapping<MissConfig> = {
  peftType: "MISS",
  method: missMethod,
  biasOnly: "MiSS_only",
  options(config, file) {
    const own = parsePart(
      z.looseObject({
        r: rank(64),
        mini_r: rank(1),
        miss_dropout: z.number().default(0),
        init_weights: init,
      }),
      config,
      file,
    );
    const variant = own.init_weights === "bat" || own.init_weights === "mini" ? own.init_weights : "miss";
    return { rank: own.r, miniRank: own.mini_r, dropout: own.miss_dropout, variant };
  },
  config: (own) => ({
    r: own.rank,
    mini_r: own.miniRank,
    miss_dropout: own.dropout,
    init_weights: own.variant === "miss" ? true : own.variant,
  }),
  suffix: (key) => key,
};

/** GraLoRA. */
export const graloraMapping: PeftMapping<GraloraConfig> = {
  peftType: "GRALORA",
  method: graloraMethod,
  biasOnly: "gralora_only",
  options(config, file) {
    const own = parsePart(
      z.looseObject({
        r: rank(32),
        alpha: z.number().positive().default(64),
        gralora_k: rank(2),
        hybrid_r: z.number().int().default(0),
        gralora_dropout: z.number().default(0),
      }),
      config,
      file,
    );
    return {
      rank: own.r,
      alpha: own.alpha,
      blocks: own.gralora_k,
      hybridRank: own.hybrid_r,
      dropout: own.gralora_dropout,
    };
  },
  config: (own) => ({
    r: own.rank,
    alpha: own.alpha,
    gralora_k: own.blocks,
    hybrid_r: own.hybridRank,
    gralora_dropout: own.dropout,
    fan_in_fan_out: false,
    init_weights: true,
  }),
  suffix: (key) => (key.endsWith("_general") ? `${key}.weight` : key),
};

/** DeLoRA. */
export const deloraMapping: PeftMapping<DeloraConfig> = {
  peftType: "DELORA",
  method: deloraMethod,
  biasOnly: "delora_only",
  options(config, file) {
    const own = parsePart(
      z.looseObject({
        r: rank(8),
        delora_lambda: z.number().positive().default(15),
        module_dropout: z.number().default(0),
        rank_pattern: table,
        lambda_pattern: table,
      }),
      config,
      file,
    );
    return {
      rank: own.r,
      boundary: own.delora_lambda,
      dropout: own.module_dropout,
      rankPattern: own.rank_pattern ?? {},
      boundaryPattern: own.lambda_pattern ?? {},
    };
  },
  config: (own) => ({
    r: own.rank,
    delora_lambda: own.boundary,
    module_dropout: own.dropout,
    rank_pattern: own.rankPattern,
    lambda_pattern: own.boundaryPattern,
    init_weights: true,
  }),
  suffix: (key) => key,
};

/** C3A. */
export const c3aMapping: PeftMapping<C3aConfig> = {
  peftType: "C3A",
  method: c3aMethod,
  biasOnly: "c3a_only",
  options(config, file) {
    const own = parsePart(
      z.looseObject({ block_size: rank(256), block_size_pattern: table, init_weights: init }),
      config,
      file,
    );
    const start = own.init_weights;
    return {
      blockSize: own.block_size,
      blockSizePattern: own.block_size_pattern ?? {},
      init: start === true ? "zero" : typeof start === "string" ? start : "xavier_uniform",
    };
  },
  config: (own) => ({
    block_size: own.blockSize,
    block_size_pattern: own.blockSizePattern,
    init_weights: own.init === "zero" ? true : own.init,
  }),
  suffix: (key) => key,
};

/** RoAd. */
export const roadMapping: PeftMapping<RoadConfig> = {
  peftType: "ROAD",
  method: roadMethod,
  options(config, file) {
    const own = parsePart(
      z.looseObject({ variant: z.string().default("road_1"), group_size: rank(64) }),
      config,
      file,
    );
    return { variant: own.variant, groupSize: own.group_size };
  },
  config: (own) => ({ variant: own.variant, group_size: own.groupSize, init_weights: true }),
  suffix: (key) => key,
};
