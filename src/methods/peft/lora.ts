import { z } from "zod";
import { TunesmithError } from "../../errors/index.js";
import { type Tensor, tensor } from "../../tensor/index.js";
import type { Adapter, AdapterSite } from "../adapter.js";
import { type LoraConfig, loraMethod } from "../lowrank/lora.js";
import type { SiteShape } from "../method.js";
import { type PeftConfig, parsePart } from "./config-part.js";
import type { PeftMapping } from "./mapping.js";
import { refusedGroups } from "./refused.js";

const SUFFIX: Readonly<Record<string, string>> = {
  lora_A: "lora_A.weight",
  lora_B: "lora_B.weight",
  lora_bias: "lora_B.bias",
  lora_embedding_A: "lora_embedding_A",
  lora_embedding_B: "lora_embedding_B",
  lora_magnitude_vector: "lora_magnitude_vector",
};

/** Options that change the mathematics and that we do not have: an adapter with one must not load as plain LoRA. */
const REFUSED = [
  "alora_invocation_tokens",
  "arrow_config",
  "kasa_config",
  "layer_replication",
  "monteclora_config",
  "target_parameters",
  "use_bdlora",
  "use_qalora",
  "velora_config",
];

/** Why one is refused, and what to do: in general, and where more can be said. */
const REFUSAL = {
  why: "is not supported",
  fix: "merge the adapter where it was made, or train without this option",
};
const REFUSALS: Readonly<Record<string, typeof REFUSAL>> = {
  target_parameters: {
    why: "adapts parameters instead of modules, as PEFT needs for experts kept together as [experts, in, out]; no model here has such, and the update of a matrix lies the other way round where its module stores it as [in, out]",
    fix: "train it with the modules of plain matrices in target_modules; or call merge_and_unload where it was made and load the merged model",
  },
};

/** Initialisations whose files hold an adapter for a changed base that we cannot recompute. */
const RESIDUAL = ["corda", "lora_ga", "loftq"];

/** Starts that leave an ordinary adapter for the original base, which readers need not know. */
const PLAIN_STARTS: readonly string[] = ["default", "loftq", "eva"];

const table = z.record(z.string(), z.number()).nullish();

/** LoRA's own keys of adapter_config.json. */
const schema = z.looseObject({
  r: z.number().int().positive().default(8),
  lora_alpha: z.number().positive().default(8),
  lora_dropout: z.number().min(0).max(1).default(0),
  use_rslora: z.boolean().nullish(),
  use_dora: z.boolean().nullish(),
  lora_bias: z.boolean().nullish(),
  init_lora_weights: z.union([z.boolean(), z.string()]).nullish(),
  rank_pattern: table,
  alpha_pattern: table,
});
export type LoraPeftConfig = PeftConfig & z.infer<typeof schema>;

function options(given: PeftConfig, file: string): Record<string, unknown> {
  const config = parsePart(schema, given, file);
  const refused = REFUSED.find(
    (key) => config[key] !== undefined && config[key] !== null && config[key] !== false,
  );
  if (refused) {
    const { why, fix } = REFUSALS[refused] ?? REFUSAL;
    throw new TunesmithError("adapter-invalid", `${file}: '${refused}' is set, which ${why}`, { fix });
  }
  const init = config.init_lora_weights;
  if (RESIDUAL.includes(String(init))) {
    throw new TunesmithError(
      "adapter-invalid",
      `${file}: init_lora_weights '${init}' belongs to a changed base that the file does not hold`,
      {
        fix: "save it where it was made with path_initial_model_for_weight_conversion, which makes it portable",
      },
    );
  }
  const known =
    typeof init === "string" && /^(gaussian|mica|olora|orthogonal|pissa(_niter_\d+)?)$/.test(init);
  return {
    rank: config.r,
    alpha: config.lora_alpha,
    dropout: config.lora_dropout,
    rslora: config.use_rslora ?? false,
    dora: config.use_dora ?? false,
    loraBias: config.lora_bias ?? false,
    init: known ? init : "default",
    rankPattern: config.rank_pattern ?? {},
    alphaPattern: config.alpha_pattern ?? {},
  };
}

const takesPart = ({ tensors }: AdapterSite): boolean => tensors.lora_A0 !== undefined;

/** Ranks are doubled when an adapter is written in portable form. */
function config(own: LoraConfig, adapter: Adapter): Record<string, unknown> {
  const portable = [...adapter.sites.values()].some(takesPart);
  const times = portable ? 2 : 1;
  const alphaTimes = portable ? (own.rslora ? Math.SQRT2 : 2) : 1;
  const scaled = (values: Readonly<Record<string, number>>, by: number) =>
    Object.fromEntries(Object.entries(values).map(([key, value]) => [key, value * by]));
  return {
    alpha_pattern: scaled(own.alphaPattern, alphaTimes),
    fan_in_fan_out: false,
    init_lora_weights: portable || PLAIN_STARTS.includes(own.init) ? true : own.init,
    lora_alpha: own.alpha * alphaTimes,
    lora_bias: own.loraBias,
    lora_dropout: own.dropout,
    r: own.rank * times,
    rank_pattern: scaled(own.rankPattern, times),
    use_dora: own.dora,
    use_rslora: own.rslora,
  };
}

/** [A; A0] and [B, −B0] of a site whose initialisation took part of the base. */
function doubled(site: AdapterSite): [string, Tensor][] {
  const { lora_A: a, lora_B: b, lora_A0: a0, lora_B0: b0 } = site.tensors;
  if (!a || !b || !a0 || !b0) return [];
  const [rank, inFeatures] = a.tensor.shape as [number, number];
  const outFeatures = b.tensor.shape[0] as number;
  const stacked = new Float32Array(2 * rank * inFeatures);
  stacked.set(a.tensor.data as Float32Array);
  stacked.set(a0.tensor.data as Float32Array, rank * inFeatures);
  const beside = new Float32Array(outFeatures * 2 * rank);
  for (let row = 0; row < outFeatures; row++) {
    for (let k = 0; k < rank; k++) {
      beside[row * 2 * rank + k] = (b.tensor.data as Float32Array)[row * rank + k] as number;
      beside[row * 2 * rank + rank + k] = -((b0.tensor.data as Float32Array)[row * rank + k] as number);
    }
  }
  return [
    ["lora_A.weight", tensor("float32", fileShape("lora_A", site.shape, [2 * rank, inFeatures]), stacked)],
    ["lora_B.weight", tensor("float32", fileShape("lora_B", site.shape, [outFeatures, 2 * rank]), beside)],
  ];
}

/** A convolution's A has its taps, B is a 1 × 1 convolution, and magnitudes broadcast over channels. */
function fileShape(key: string, site: SiteShape, shape: readonly number[]): readonly number[] {
  const { conv, inFeatures } = site;
  if (!conv) return shape;
  refusedGroups(site);
  const { kernel } = conv;
  const ones = kernel.map(() => 1);
  const channels = inFeatures / kernel.reduce((a, b) => a * b, 1);
  if (key === "lora_A") return [shape[0] as number, channels, ...kernel];
  if (key === "lora_B") return [...shape, ...ones];
  return key === "lora_magnitude_vector" ? [1, shape[0] as number, ...ones] : shape;
}

/** LoRA with its relatives in one format. */
export const loraMapping: PeftMapping<LoraConfig> = {
  peftType: "LORA",
  method: loraMethod,
  biasOnly: "lora_only",
  options,
  config,
  suffix: (key) => SUFFIX[key],
  fileShape,
  rewritten: doubled,
};
