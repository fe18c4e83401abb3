import { z } from "zod";
import { type GloraConfig, gloraMethod } from "../lowrank/glora.js";
import { parsePart } from "./config-part.js";
import type { PeftMapping } from "./mapping.js";
import { ownConfig } from "./own.js";

const form = z.enum(["lora", "vector", "constant", "none", "None"]).nullish();
const schema = z.looseObject({
  r: z.number().int().positive().default(8),
  config_A_B: form,
  config_C: form,
  config_D_E: form,
});

const formOf = (value: z.infer<typeof form>, or: string) =>
  value === undefined ? or : (value ?? "none").toLowerCase();

/** GLoRA with one form for A and B and one for D and E, at every module; the rest is written under our own names. */
export const gloraMapping: PeftMapping<GloraConfig> = {
  peftType: "GLORA",
  method: gloraMethod,
  options(config, file) {
    const own = parsePart(schema, config, file);
    const factor = formOf(own.config_A_B, "lora");
    const shift = formOf(own.config_D_E, "constant");
    return { ranks: [own.r], a: factor, b: factor, c: formOf(own.config_C, "lora"), d: shift, e: shift };
  },
  config(config) {
    const { a, b, c, d, e, ranks } = config;
    const fits = a === b && d === e && ranks.length === 1 && Object.keys(config.chosen).length === 0;
    if (!fits || config.newBias || config.supernet) return ownConfig("glora", config);
    const plain = (form: string) => form.replace(/-\d+$/, "");
    return { r: ranks[0], config_A_B: plain(a), config_C: plain(c), config_D_E: d, init_weights: true };
  },
  suffix: (key) => key,
  // What PEFT keeps in the place of a tensor that is not there.
  ignores: (suffix) => /^glora_[A-E]\.zeros$/.test(suffix),
};
