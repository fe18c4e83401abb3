import { z } from "zod";
import { type Tensor, tensor } from "../../tensor/index.js";
import type { AdapterSite } from "../adapter.js";
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

/** Whether PEFT has what a configuration says. */
const isPeftForm = ({ a, b, d, e, ranks, chosen, newBias, supernet }: GloraConfig): boolean =>
  a === b && d === e && ranks.length === 1 && Object.keys(chosen).length === 0 && !newBias && !supernet;

/** What PEFT keeps in the place of a tensor that is not there. */
function empty({ shape: { inFeatures, outFeatures }, tensors }: AdapterSite): [string, Tensor][] {
  const shapes = {
    A: [outFeatures, inFeatures],
    B: [outFeatures, inFeatures],
    C: [inFeatures, 1],
    D: [outFeatures],
    E: [outFeatures],
  };
  const isThere = (name: string) => Object.keys(tensors).some((key) => key.startsWith(`glora_${name}.`));
  return Object.entries(shapes)
    .filter(([name]) => !isThere(name))
    .map(([name, shape]) => {
      const count = shape.reduce((a, b) => a * b, 1);
      return [`glora_${name}.zeros`, tensor("float32", shape, new Float32Array(count))];
    });
}

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
    const { a, c, d, ranks } = config;
    if (!isPeftForm(config)) return ownConfig("glora", config);
    const plain = (form: string) => form.replace(/-\d+$/, "");
    return { r: ranks[0], config_A_B: plain(a), config_C: plain(c), config_D_E: d, init_weights: true };
  },
  suffix: (key) => key,
  rewritten: (site, config) => (isPeftForm(config) ? empty(site) : []),
  ignores: (suffix) => /^glora_[A-E]\.zeros$/.test(suffix),
};
