import { z } from "zod";
import { type BoftConfig, boftMethod } from "../orthogonal/boft.js";
import { type HraConfig, hraMethod } from "../orthogonal/hra.js";
import { type OftConfig, oftMethod } from "../orthogonal/oft.js";
import { parsePart } from "./config-part.js";
import type { PeftMapping } from "./mapping.js";
import { ownConfig } from "./own.js";

/** BOFT. PEFT itself uses several factors on CUDA only; here they always count. */
export const boftMapping: PeftMapping<BoftConfig> = {
  peftType: "BOFT",
  method: boftMethod,
  biasOnly: "boft_only",
  options(config, file) {
    const own = parsePart(
      z.looseObject({
        boft_block_size: z.number().int().default(4),
        boft_block_num: z.number().int().default(0),
        boft_n_butterfly_factor: z.number().int().default(1),
        boft_dropout: z.number().default(0),
      }),
      config,
      file,
    );
    const blocks =
      own.boft_block_num > 0 ? { blockNum: own.boft_block_num } : { blockSize: own.boft_block_size };
    return { ...blocks, factors: own.boft_n_butterfly_factor, dropout: own.boft_dropout };
  },
  config: (own) => ({
    boft_block_size: own.blockNum ? 0 : own.blockSize,
    boft_block_num: own.blockNum ?? 0,
    boft_n_butterfly_factor: own.factors,
    boft_dropout: own.dropout,
    fan_in_fan_out: false,
    init_weights: true,
  }),
  suffix: (key) => key,
  fileShape: (key, site, shape) => (key === "boft_s" ? (site.conv ? [1, ...shape] : [...shape, 1]) : shape),
};

/** OFT as PEFT has it since 0.16: the numbers above the diagonal of each block. */
export const oftMapping: PeftMapping<OftConfig> = {
  peftType: "OFT",
  method: oftMethod,
  biasOnly: "oft_only",
  options(config, file) {
    const own = parsePart(
      z.looseObject({
        r: z.number().int().default(0),
        oft_block_size: z.number().int().default(32),
        module_dropout: z.number().default(0),
        block_share: z.boolean().default(false),
        coft: z.boolean().default(false),
        eps: z.number().default(6e-5),
        use_cayley_neumann: z.boolean().default(true),
        num_cayley_neumann_terms: z.number().int().default(5),
      }),
      config,
      file,
    );
    return {
      ...(own.r > 0 ? { blocks: own.r } : { blockSize: own.oft_block_size }),
      dropout: own.module_dropout,
      blockShare: own.block_share,
      coft: own.coft,
      eps: own.eps,
      neumann: own.use_cayley_neumann,
      neumannTerms: own.num_cayley_neumann_terms,
    };
  },
  config: (own) => ({
    r: own.blocks ?? 0,
    oft_block_size: own.blocks ? 0 : own.blockSize,
    block_share: own.blockShare,
    coft: own.coft,
    eps: own.eps,
    use_cayley_neumann: own.neumann,
    num_cayley_neumann_terms: own.neumannTerms,
    module_dropout: own.dropout,
    fan_in_fan_out: false,
    init_weights: true,
  }),
  suffix: (key) => `${key}.weight`,
};

/** HRA. */
export const hraMapping: PeftMapping<HraConfig> = {
  peftType: "HRA",
  method: hraMethod,
  biasOnly: "hra_only",
  options(config, file) {
    const own = parsePart(
      z.looseObject({ r: z.number().int().positive().default(8), apply_GS: z.boolean().default(false) }),
      config,
      file,
    );
    return { rank: own.r, gramSchmidt: own.apply_GS };
  },
  // PEFT has no vectors that are only nearly normalised.
  config: (own) =>
    own.init === "soft"
      ? ownConfig("hra", own)
      : { r: own.rank, apply_GS: own.gramSchmidt, init_weights: own.init === "paired" },
  suffix: (key) => key,
};
