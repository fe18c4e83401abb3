import { z } from "zod";
import { TunesmithError } from "../../errors/index.js";
import { type LoraConfig, lora } from "../lowrank/lora.js";
import type { Adaptation } from "../method.js";

const nameList = z.union([z.string(), z.array(z.string())]).nullish();
const table = z.record(z.string(), z.number()).nullish();

/** What we read of `adapter_config.json`; unknown keys are kept out, as in the reference. */
const schema = z.looseObject({
  peft_type: z.string(),
  base_model_name_or_path: z.string().nullish(),
  task_type: z.string().nullish(),
  r: z.number().int().positive().default(8),
  lora_alpha: z.number().positive().default(8),
  lora_dropout: z.number().min(0).max(1).default(0),
  use_rslora: z.boolean().nullish(),
  use_dora: z.boolean().nullish(),
  lora_bias: z.boolean().nullish(),
  bias: z.enum(["none", "all", "lora_only"]).default("none"),
  init_lora_weights: z.union([z.boolean(), z.string()]).nullish(),
  target_modules: nameList,
  exclude_modules: nameList,
  layers_to_transform: z.union([z.number(), z.array(z.number())]).nullish(),
  layers_pattern: nameList,
  rank_pattern: table,
  alpha_pattern: table,
  modules_to_save: z.array(z.string()).nullish(),
  trainable_token_indices: z
    .union([z.array(z.number()), z.record(z.string(), z.array(z.number()))])
    .nullish(),
});
export type PeftConfig = z.infer<typeof schema>;

/** Options that change the mathematics and that we do not have: an adapter with one must not load as plain LoRA. */
const REFUSED = [
  "alora_invocation_tokens",
  "arrow_config",
  "kasa_config",
  "layer_replication",
  "target_parameters",
  "use_bdlora",
  "use_qalora",
];

/** Initialisations whose files hold an adapter for a changed base that we cannot recompute. */
const RESIDUAL = ["corda", "lora_ga", "loftq"];

/** Parses `adapter_config.json`. Throws `adapter-invalid` naming file, key and what to do. */
export function parsePeftConfig(json: Readonly<Record<string, unknown>>, file: string): PeftConfig {
  const parsed = schema.safeParse(json);
  if (!parsed.success) {
    const issue = parsed.error.issues[0];
    throw new TunesmithError("adapter-invalid", `${file}: ${issue?.path.join(".")}: ${issue?.message}`, {
      fix: "compare it with a file that PEFT wrote",
    });
  }
  const config = parsed.data;
  if (config.peft_type !== "LORA") {
    throw new TunesmithError("adapter-invalid", `${file}: peft_type '${config.peft_type}' is not supported`, {
      fix: "supported: LORA (case matters)",
    });
  }
  const refused = REFUSED.find(
    (key) => config[key] !== undefined && config[key] !== null && config[key] !== false,
  );
  if (refused) {
    throw new TunesmithError("adapter-invalid", `${file}: '${refused}' is set, which is not supported`, {
      fix: "merge the adapter where it was made, or train without this option",
    });
  }
  if (RESIDUAL.includes(String(config.init_lora_weights))) {
    throw new TunesmithError(
      "adapter-invalid",
      `${file}: init_lora_weights '${config.init_lora_weights}' belongs to a changed base that the file does not hold`,
      {
        fix: "save it where it was made with path_initial_model_for_weight_conversion, which makes it portable",
      },
    );
  }
  return config;
}

const list = (value: string | readonly string[] | null | undefined) =>
  typeof value === "string" || value === undefined ? value : value === null ? undefined : [...value];

/** The LoRA adaptation a PEFT config describes. Throws `adapter-invalid` for a value that LoRA cannot take. */
export function adaptationOf(config: PeftConfig, file: string): Adaptation<LoraConfig> {
  try {
    return lora(loraConfigOf(config));
  } catch (cause) {
    if (!(cause instanceof TunesmithError)) throw cause;
    throw new TunesmithError("adapter-invalid", `${file}: ${cause.message.split("\n")[0]}`, {
      fix: "compare it with a file that PEFT wrote",
      cause,
    });
  }
}

function loraConfigOf(config: PeftConfig): Parameters<typeof lora>[0] {
  const init = config.init_lora_weights;
  const known = typeof init === "string" && /^(gaussian|olora|orthogonal|pissa(_niter_\d+)?)$/.test(init);
  return {
    rank: config.r,
    alpha: config.lora_alpha,
    dropout: config.lora_dropout,
    rslora: config.use_rslora ?? false,
    dora: config.use_dora ?? false,
    loraBias: config.lora_bias ?? false,
    bias: config.bias === "lora_only" ? "adapted" : config.bias,
    init: known ? init : "default",
    targets: list(config.target_modules),
    exclude: list(config.exclude_modules),
    layers: config.layers_to_transform == null ? undefined : [config.layers_to_transform].flat(),
    layersPattern: list(config.layers_pattern),
    rankPattern: config.rank_pattern ?? {},
    alphaPattern: config.alpha_pattern ?? {},
    modulesToSave: config.modules_to_save ?? undefined,
    trainableTokens: config.trainable_token_indices ?? undefined,
  };
}

/** The config file of a LoRA adapter; ranks are doubled when it is written in portable form. */
export function peftConfigOf(
  config: LoraConfig,
  context: {
    readonly targets: string | readonly string[];
    readonly base: string;
    readonly portable: boolean;
  },
): Record<string, unknown> {
  const times = context.portable ? 2 : 1;
  const alphaTimes = context.portable ? (config.rslora ? Math.SQRT2 : 2) : 1;
  const scaled = (values: Readonly<Record<string, number>>, by: number) =>
    Object.fromEntries(Object.entries(values).map(([key, value]) => [key, value * by]));
  return {
    alpha_pattern: scaled(config.alphaPattern, alphaTimes),
    auto_mapping: null,
    base_model_name_or_path: context.base,
    bias: config.bias === "adapted" ? "lora_only" : config.bias,
    exclude_modules: config.exclude ?? null,
    fan_in_fan_out: false,
    inference_mode: true,
    init_lora_weights: context.portable || config.init === "default" ? true : config.init,
    layers_pattern: config.layersPattern ?? null,
    layers_to_transform: config.layers ?? null,
    lora_alpha: config.alpha * alphaTimes,
    lora_bias: config.loraBias,
    lora_dropout: config.dropout,
    modules_to_save: config.modulesToSave ?? null,
    peft_type: "LORA",
    r: config.rank * times,
    rank_pattern: scaled(config.rankPattern, times),
    revision: null,
    target_modules: context.targets,
    task_type: "CAUSAL_LM",
    trainable_token_indices: config.trainableTokens ?? null,
    use_dora: config.dora,
    use_rslora: config.rslora,
  };
}
