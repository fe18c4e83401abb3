import { z } from "zod";
import { TunesmithError } from "../../errors/index.js";
import { type ShiraConfig, shiraMethod } from "../sparse/shira.js";
import { type FourierftConfig, fourierftMethod } from "../spectral/fourierft.js";
import { type WaveftConfig, waveftMethod } from "../spectral/waveft.js";
import { parsePart } from "./config-part.js";
import type { PeftMapping } from "./mapping.js";
import { refused } from "./refused.js";

const spectrum = z.looseObject({
  n_frequency: z.number().int().positive().optional(),
  scaling: z.number().positive().optional(),
  random_loc_seed: z.number().int().nullish(),
  n_frequency_pattern: z.record(z.string(), z.number()).nullish(),
});

const spectrumOptions = (own: z.infer<typeof spectrum>) => ({
  frequencies: own.n_frequency,
  scaling: own.scaling,
  positionSeed: own.random_loc_seed ?? undefined,
  frequencyPattern: own.n_frequency_pattern ?? undefined,
});

const spectrumConfig = (own: FourierftConfig | WaveftConfig) => ({
  n_frequency: own.frequencies,
  scaling: own.scaling,
  random_loc_seed: own.positionSeed,
  n_frequency_pattern: own.frequencyPattern,
  fan_in_fan_out: false,
});

/** FourierFT; files hold the entries, and the seed of their places. */
export const fourierftMapping: PeftMapping<FourierftConfig> = {
  peftType: "FOURIERFT",
  method: fourierftMethod,
  biasOnly: "fourier_only",
  options(config, file) {
    const own = parsePart(spectrum.extend({ init_weights: z.boolean().nullish() }), config, file);
    return { ...spectrumOptions(own), init: own.init_weights === true ? "zero" : "normal" };
  },
  config: (own) => ({ ...spectrumConfig(own), init_weights: own.init === "zero" }),
  suffix: (key) => key,
};

/** WaveFT, with PEFT's default wavelet alone. */
export const waveftMapping: PeftMapping<WaveftConfig> = {
  peftType: "WAVEFT",
  method: waveftMethod,
  biasOnly: "waveft_only",
  options(config, file) {
    refused(config, ["proportional_parameters"], file);
    const own = parsePart(
      spectrum.extend({ wavelet_family: z.string().default("db1"), use_idwt: z.boolean().default(true) }),
      config,
      file,
    );
    if (own.use_idwt && own.wavelet_family !== "db1") {
      throw new TunesmithError(
        "adapter-invalid",
        `${file}: wavelet_family '${own.wavelet_family}' is not supported`,
        {
          fix: "merge the adapter where it was made, or train with db1",
        },
      );
    }
    return { ...spectrumOptions(own), transform: own.use_idwt };
  },
  config: (own) => ({
    ...spectrumConfig(own),
    wavelet_family: "db1",
    use_idwt: own.transform,
    proportional_parameters: false,
    init_weights: true,
  }),
  suffix: (key) => key,
};

/** SHiRA; files hold entries and places. */
export const shiraMapping: PeftMapping<ShiraConfig> = {
  peftType: "SHIRA",
  method: shiraMethod,
  options(config, file) {
    const own = parsePart(
      z.looseObject({ r: z.number().int().positive().default(32), random_seed: z.number().int().nullish() }),
      config,
      file,
    );
    return { rank: own.r, maskSeed: own.random_seed ?? undefined };
  },
  config: (own) => ({
    r: own.rank,
    mask_type: "random",
    random_seed: own.maskSeed ?? null,
    fan_in_fan_out: false,
    init_weights: true,
  }),
  suffix: (key) => key,
};
