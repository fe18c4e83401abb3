import { z } from "zod";
import { type Tensor, tensor } from "../../tensor/index.js";
import type { AdapterSite } from "../adapter.js";
import { type AdaloraConfig, adaloraMethod } from "../lowrank/adalora.js";
import { parsePart } from "./config-part.js";
import type { PeftMapping } from "./mapping.js";
import { refusedGroups } from "./refused.js";

const schema = z.looseObject({
  init_r: z.number().int().positive().default(12),
  target_r: z.number().int().positive().default(8),
  lora_alpha: z.number().positive().default(8),
  lora_dropout: z.number().default(0),
  tinit: z.number().int().default(0),
  tfinal: z.number().int().default(0),
  deltaT: z.number().int().default(1),
  beta1: z.number().default(0.85),
  beta2: z.number().default(0.85),
  orth_reg_weight: z.number().default(0.5),
  total_step: z.number().int().nullish(),
  rank_pattern: z.record(z.string(), z.array(z.boolean())).nullish(),
});

/** Rows whose e is not zero: the others do nothing. All, while none has moved. */
function keptRows({ tensors }: AdapterSite): readonly boolean[] {
  const e = tensors.lora_E?.tensor.data as Float32Array;
  const kept = Array.from(e, (value) => value !== 0);
  return kept.includes(true) ? kept : kept.map(() => true);
}

/** The rows kept of those a file was read with, which themselves are some of `initRank`. */
function rankPattern(site: AdapterSite, { initRank, rankPattern: known }: AdaloraConfig): boolean[] {
  const kept = [...keptRows(site)];
  const before = known[site.shape.path] ?? Array<boolean>(initRank).fill(true);
  return before.map((was) => was && kept.shift() === true);
}

/** A, E and B without the rows that were taken away. */
function cut(site: AdapterSite): [string, Tensor][] {
  const kept = keptRows(site);
  if (!kept.includes(false)) return [];
  const rank = kept.filter(Boolean).length;
  return Object.entries(site.tensors).map(([key, { tensor: whole }]) => {
    const isB = key === "lora_B";
    const columns = whole.shape[1] as number;
    const data = (whole.data as Float32Array).filter(
      (_, at) => kept[isB ? at % columns : Math.floor(at / columns)],
    );
    return [key, tensor("float32", isB ? [whole.shape[0] as number, rank] : [rank, columns], data)];
  });
}

/** AdaLoRA. Files hold the kept triplets alone, and which of the first ones they were. */
export const adaloraMapping: PeftMapping<AdaloraConfig> = {
  peftType: "ADALORA",
  method: adaloraMethod,
  biasOnly: "lora_only",
  options(config, file) {
    const own = parsePart(schema, config, file);
    return {
      initRank: own.init_r,
      targetRank: own.target_r,
      alpha: own.lora_alpha,
      dropout: own.lora_dropout,
      rankWarmup: own.tinit,
      finalSteps: own.tfinal,
      interval: own.deltaT,
      beta1: own.beta1,
      beta2: own.beta2,
      orthogonality: own.orth_reg_weight,
      totalSteps: own.total_step ?? undefined,
      rankPattern: Object.fromEntries(
        Object.entries(own.rank_pattern ?? {}).map(([key, kept]) => [key.replace(/\.lora_E$/, ""), kept]),
      ),
    };
  },
  config(own, adapter) {
    const sites = [...adapter.sites.values()];
    const isCut = sites.some((site) => rankPattern(site, own).includes(false));
    return {
      init_r: own.initRank,
      target_r: own.targetRank,
      r: 8,
      lora_alpha: own.alpha,
      lora_dropout: own.dropout,
      tinit: own.rankWarmup,
      tfinal: own.finalSteps,
      deltaT: own.interval,
      beta1: own.beta1,
      beta2: own.beta2,
      orth_reg_weight: own.orthogonality,
      // PEFT refuses a file without a schedule, also for inference.
      total_step: own.totalSteps ?? own.rankWarmup + own.finalSteps + 1,
      rank_pattern: isCut
        ? Object.fromEntries(sites.map((site) => [`${site.shape.path}.lora_E`, rankPattern(site, own)]))
        : null,
      fan_in_fan_out: false,
      init_lora_weights: true,
    };
  },
  suffix: (key) => key,
  fileShape(_, site, shape) {
    refusedGroups(site);
    return shape;
  },
  rewritten: cut,
};
