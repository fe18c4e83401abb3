import { z } from "zod";
import { TunesmithError } from "../../errors/index.js";
import { type Tensor, tensor } from "../../tensor/index.js";
import type { AdapterSite } from "../adapter.js";
import { type AloraConfig, aloraMethod } from "../lowrank/alora.js";
import { type BdloraConfig, bdloraMethod } from "../lowrank/bdlora.js";
import { type KasaConfig, kasaMethod } from "../lowrank/kasa.js";
import { type MontecloraConfig, montecloraMethod } from "../lowrank/monteclora.js";
import { type QaloraConfig, qaloraMethod } from "../lowrank/qalora.js";
import { type VeloraConfig, veloraMethod } from "../lowrank/velora.js";
import { type PeftConfig, parsePart } from "./config-part.js";
import { loraMapping } from "./lora.js";
import type { PeftMapping } from "./mapping.js";

/** What they share with plain LoRA. Throws `adapter-invalid` where PEFT's variants do not go together. */
export function plainOptions(config: PeftConfig, file: string, variant: string): Record<string, unknown> {
  const { dora, loraBias, init, ...rest } = loraMapping.options({ ...config, [variant]: null }, file);
  const plain = init === "default" || init === "gaussian";
  const other = dora ? "use_dora" : loraBias ? "lora_bias" : plain ? undefined : "init_lora_weights";
  if (other === undefined) return rest;
  throw new TunesmithError("adapter-invalid", `${file}: '${other}' beside '${variant}' is not supported`, {
    fix: "merge the adapter where it was made, or train without one of the two",
  });
}

type Variant = KasaConfig | QaloraConfig | BdloraConfig | AloraConfig | VeloraConfig | MontecloraConfig;

const sharedConfig = (own: Variant) => ({
  r: own.rank,
  lora_alpha: own.alpha,
  lora_dropout: own.dropout,
  use_rslora: own.rslora,
  rank_pattern: own.rankPattern,
  alpha_pattern: own.alphaPattern,
  fan_in_fan_out: false,
  init_lora_weights: true,
  lora_bias: false,
  use_dora: false,
});

const common = {
  peftType: "LORA",
  biasOnly: "lora_only",
} as const;

const isSet = (value: unknown): boolean => value !== undefined && value !== null && value !== false;

/** KaSA: LoRA with `kasa_config`. */
export const kasaMapping: PeftMapping<KasaConfig> = {
  ...common,
  method: kasaMethod,
  applies: ({ kasa_config: own }) => isSet(own),
  options(config, file) {
    const schema = z.looseObject({
      kasa_config: z.looseObject({ beta: z.number().default(1e-4), gamma: z.number().default(1e-3) }),
    });
    const { beta, gamma } = parsePart(schema, config, file).kasa_config;
    return { ...plainOptions(config, file, "kasa_config"), beta, gamma };
  },
  config: (own) => ({ ...sharedConfig(own), kasa_config: { beta: own.beta, gamma: own.gamma } }),
  suffix: (key) => ({ lora_A: "lora_A.weight", lora_B: "lora_B.weight", lora_diag: "lora_diag" })[key],
};

const weights = (key: string): string => `${key}.weight`;

/** QA-LoRA: LoRA with `use_qalora`. PEFT itself has it for GPTQ weights alone. */
export const qaloraMapping: PeftMapping<QaloraConfig> = {
  ...common,
  method: qaloraMethod,
  applies: ({ use_qalora: used }) => isSet(used),
  options(config, file) {
    const schema = z.looseObject({ qalora_group_size: z.number().int().positive().default(16) });
    const groupSize = parsePart(schema, config, file).qalora_group_size;
    return { ...plainOptions(config, file, "use_qalora"), groupSize };
  },
  config: (own) => ({ ...sharedConfig(own), use_qalora: true, qalora_group_size: own.groupSize }),
  suffix: weights,
};

const names = z
  .array(z.string())
  .nullish()
  .transform((given) => given ?? []);

/** BD-LoRA: LoRA with `use_bdlora`. */
export const bdloraMapping: PeftMapping<BdloraConfig> = {
  ...common,
  method: bdloraMethod,
  applies: ({ use_bdlora: own }) => isSet(own),
  options(config, file) {
    const schema = z.looseObject({
      use_bdlora: z.looseObject({
        target_modules_bd_a: names,
        target_modules_bd_b: names,
        nblocks: z.number().int().positive().default(1),
        match_strict: z.boolean().default(true),
      }),
    });
    const own = parsePart(schema, config, file).use_bdlora;
    return {
      ...plainOptions(config, file, "use_bdlora"),
      blocks: own.nblocks,
      blockA: own.target_modules_bd_a,
      blockB: own.target_modules_bd_b,
      strict: own.match_strict,
    };
  },
  config: (own) => ({
    ...sharedConfig(own),
    use_bdlora: {
      target_modules_bd_a: own.blockA,
      target_modules_bd_b: own.blockB,
      nblocks: own.blocks,
      match_strict: own.strict,
    },
  }),
  suffix: weights,
};

/** aLoRA: LoRA with `alora_invocation_tokens`. */
export const aloraMapping: PeftMapping<AloraConfig> = {
  ...common,
  method: aloraMethod,
  applies: ({ alora_invocation_tokens: own }) => isSet(own),
  options(config, file) {
    const schema = z.looseObject({ alora_invocation_tokens: z.array(z.number().int().min(0)).min(1) });
    const invocation = parsePart(schema, config, file).alora_invocation_tokens;
    return { ...plainOptions(config, file, "alora_invocation_tokens"), invocation };
  },
  config: (own) => ({ ...sharedConfig(own), alora_invocation_tokens: own.invocation }),
  suffix: weights,
};

/** Where VeLoRA's directions come from, in PEFT's words. */
const DIRECTIONS = { batch_average: "batch", batch_average_once: "once", random: "random" } as const;

/** VeLoRA: LoRA with `velora_config`. */
export const veloraMapping: PeftMapping<VeloraConfig> = {
  ...common,
  method: veloraMethod,
  applies: ({ velora_config: own }) => isSet(own),
  options(config, file) {
    const schema = z.looseObject({
      velora_config: z.looseObject({
        num_groups: z.number().int().positive().default(64),
        scale: z.number().positive().default(1),
        init_type: z.enum(["batch_average", "batch_average_once", "random"]).default("batch_average"),
      }),
    });
    const { num_groups: groups, scale, init_type: type } = parsePart(schema, config, file).velora_config;
    return {
      ...plainOptions(config, file, "velora_config"),
      ...{ groups, reconstruction: scale, direction: DIRECTIONS[type] },
    };
  },
  config(own) {
    const [type] = Object.entries(DIRECTIONS).find(([, ours]) => ours === own.direction) as [string, string];
    const velora = { num_groups: own.groups, scale: own.reconstruction, init_type: type };
    return { ...sharedConfig(own), velora_config: velora };
  },
  suffix: (key) => (key === "lora_velora_embed" ? key : weights(key)),
};

const SAMPLER = "lora_monteclora_sampler";
/** What PEFT last drew of variances and weights: its files hold it, and it draws anew. */
const DRAWN = [`${SAMPLER}.gaussian_var_prior`, `${SAMPLER}.expert_weights`];

/** As PEFT has them before the first draw: I and equal weights. */
function undrawn(site: AdapterSite): [string, Tensor][] {
  const [rank, samples] = [site.tensors.std_prior, site.tensors.expert_weights_prior].map((own) =>
    Number(own?.tensor.shape[0]),
  ) as [number, number];
  const identity = Float32Array.from({ length: rank * rank }, (_, at) => (at % (rank + 1) === 0 ? 1 : 0));
  const equal = new Float32Array(samples).fill(1 / samples);
  const [variance, weight] = DRAWN as [string, string];
  return [
    [variance, tensor("float32", [rank, rank], identity)],
    [weight, tensor("float32", [samples], equal)],
  ];
}

/** MonteCLoRA: LoRA with `monteclora_config`. How many draws PEFT keeps ready is left to it. */
export const montecloraMapping: PeftMapping<MontecloraConfig> = {
  ...common,
  method: montecloraMethod,
  applies: ({ monteclora_config: own }) => isSet(own),
  options(config, file) {
    const schema = z.looseObject({
      monteclora_config: z.looseObject({
        num_samples: z.number().int().positive().default(8),
        use_entropy: z.boolean().default(false),
        dirichlet_prior: z.number().positive().default(0.1),
        sample_scaler: z.number().min(0).default(1e-4),
        kl_loss_weight: z.number().min(0).default(1e-5),
      }),
    });
    const own = parsePart(schema, config, file).monteclora_config;
    return {
      ...plainOptions(config, file, "monteclora_config"),
      samples: own.num_samples,
      evenWeights: own.use_entropy,
      dirichletPrior: own.dirichlet_prior,
      noiseScale: own.sample_scaler,
      klWeight: own.kl_loss_weight,
    };
  },
  config: (own) => ({
    ...sharedConfig(own),
    monteclora_config: {
      num_samples: own.samples,
      use_entropy: own.evenWeights,
      dirichlet_prior: own.dirichletPrior,
      sample_scaler: own.noiseScale,
      kl_loss_weight: own.klWeight,
    },
  }),
  suffix: (key) => (key.endsWith("_prior") ? `${SAMPLER}.${key}` : weights(key)),
  ignores: (suffix) => DRAWN.includes(suffix),
  rewritten: undrawn,
};
