import { z } from "zod";
import { TunesmithError } from "../../errors/index.js";
import { type LohaConfig, lohaMethod } from "../lowrank/loha.js";
import { type LokrConfig, lokrMethod } from "../lowrank/lokr.js";
import type { LycorisConfig } from "../lowrank/lycoris.js";
import type { SiteShape } from "../method.js";
import { type PeftConfig, parsePart } from "./config-part.js";
import type { PeftMapping } from "./mapping.js";

const table = z.record(z.string(), z.number()).nullish();

const common = z.looseObject({
  r: z.number().int().positive().default(8),
  alpha: z.number().positive().default(8),
  rank_dropout: z.number().default(0),
  module_dropout: z.number().default(0),
  use_effective_conv2d: z.boolean().default(false),
  rank_pattern: table,
  alpha_pattern: table,
});

const commonOptions = (own: z.infer<typeof common>) => ({
  rank: own.r,
  alpha: own.alpha,
  rankDropout: own.rank_dropout,
  moduleDropout: own.module_dropout,
  effectiveConv: own.use_effective_conv2d,
  rankPattern: own.rank_pattern ?? {},
  alphaPattern: own.alpha_pattern ?? {},
});

const commonConfig = (own: LycorisConfig) => ({
  r: own.rank,
  alpha: own.alpha,
  rank_dropout: own.rankDropout,
  module_dropout: own.moduleDropout,
  use_effective_conv2d: own.effectiveConv,
  rank_pattern: own.rankPattern,
  alpha_pattern: own.alphaPattern,
});

/** Taps as the reference has them: two axes for cores, also those of one-dimensional convolutions. */
function coreShape({ conv }: SiteShape, [rank]: readonly number[]): readonly number[] {
  const kernel = conv?.kernel ?? [];
  return [rank as number, rank as number, ...kernel, ...(kernel.length === 1 ? [1] : [])];
}

/** LoHa. */
export const lohaMapping: PeftMapping<LohaConfig> = {
  peftType: "LOHA",
  method: lohaMethod,
  options: (config, file) => commonOptions(parsePart(common, config, file)),
  config: (own) => ({ ...commonConfig(own), init_weights: true }),
  suffix: (key) => key,
  fileShape: (key, site, shape) => (key.startsWith("hada_t") ? coreShape(site, shape) : shape),
};

/** LoKr. */
export const lokrMapping: PeftMapping<LokrConfig> = {
  peftType: "LOKR",
  method: lokrMethod,
  options(config: PeftConfig, file: string) {
    const own = parsePart(
      common.extend({
        decompose_both: z.boolean().default(false),
        decompose_factor: z.number().int().default(-1),
        rank_dropout_scale: z.boolean().default(false),
        init_weights: z.union([z.boolean(), z.string()]).nullish(),
      }),
      config,
      file,
    );
    return {
      ...commonOptions(own),
      decomposeBoth: own.decompose_both,
      decomposeFactor: own.decompose_factor,
      rankDropoutScale: own.rank_dropout_scale,
      init: own.init_weights === "lycoris" ? "lycoris" : "default",
    };
  },
  config: (own) => ({
    ...commonConfig(own),
    decompose_both: own.decomposeBoth,
    decompose_factor: own.decomposeFactor,
    rank_dropout_scale: own.rankDropoutScale,
    init_weights: own.init === "lycoris" ? "lycoris" : true,
  }),
  suffix: (key) => key,
  fileShape(key, site, shape) {
    if (key === "lokr_t2") return coreShape(site, shape);
    return key === "lokr_w2" && site.conv ? secondShape(site, shape) : shape;
  },
};

function secondShape(
  { path, conv, inFeatures }: SiteShape,
  [rows, columns]: readonly number[],
): readonly number[] {
  const kernel = conv?.kernel ?? [];
  const taps = kernel.reduce((a, b) => a * b, 1);
  if (kernel.length === 1) {
    throw new TunesmithError(
      "format-unsupported",
      `${path} is a one-dimensional convolution with a whole second factor, whose Kronecker product PEFT lays out otherwise`,
      { fix: "choose a smaller rank, so that the factor is split", details: { path, inFeatures } },
    );
  }
  return [rows as number, (columns as number) / taps, ...kernel];
}
