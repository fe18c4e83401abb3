import { z } from "zod";
import { type Tensor, tensor } from "../../tensor/index.js";
import type { AdapterSite } from "../adapter.js";
import { type ArrowConfig, type ArrowMethod, arrowOver, overDirections } from "../mixture/arrow.js";
import { parsePart } from "./config-part.js";
import { plainOptions } from "./lora-variants.js";
import type { PeftMapping } from "./mapping.js";

const names = z
  .array(z.string())
  .nullish()
  .transform((given) => given ?? []);

const schema = z.looseObject({
  arrow_config: z.looseObject({
    top_k: z.number().int().positive().default(3),
    router_temperature: z.number().positive().default(1),
    use_gks: z.boolean().default(false),
    task_adapter_names: names,
    gks_adapter_names: names,
    rng_seed: z.number().int().min(0).nullish(),
  }),
});

const taskName = (at: number) => `task_${at}`;
const generalName = (at: number) => `gks_${at}`;

/** The experts' rank. */
const rankOf = ({ tensors }: AdapterSite): number =>
  Object.entries(tensors).find(([key]) => key.endsWith("lora_A"))?.[1].tensor.shape[0] as number;

/** A LoRA of the experts' rank that changes nothing, as PEFT keeps one at every module that it routes at. */
function idle(site: AdapterSite): [string, Tensor][] {
  const { inFeatures, outFeatures } = site.shape;
  const rank = rankOf(site);
  const zeros = (rows: number, columns: number) =>
    tensor("float32", [rows, columns], new Float32Array(rows * columns));
  return [
    ["lora_A.weight", zeros(rank, inFeatures)],
    ["lora_B.weight", zeros(outFeatures, rank)],
  ];
}

/**
 * Arrow: LoRA with `arrow_config`, the experts in folders `task_0`, ... below its own or beside it, as PEFT saves them. PEFT reads
 * the experts alone back, in create_arrow_model. One with general adapters that it saves after a pass holds experts that their
 * mean was taken off already; PEFT, and so we, take it off once more.
 */
export const arrowMapping: PeftMapping<ArrowConfig> = {
  peftType: "LORA",
  method: arrowOver([]),
  biasOnly: "lora_only",
  applies: ({ arrow_config: own }) => own !== undefined && own !== null,
  options(config, file) {
    const own = parsePart(schema, config, file).arrow_config;
    plainOptions(config, file, "arrow_config");
    return {
      experts: own.task_adapter_names,
      topK: own.top_k,
      temperature: own.router_temperature,
      general: own.use_gks ? own.gks_adapter_names : [],
      ...(own.rng_seed == null ? {} : { rngSeed: own.rng_seed }),
    };
  },
  config: (own, { sites }) => ({
    r: rankOf([...sites.values()][0] as AdapterSite),
    lora_alpha: 8,
    lora_dropout: 0,
    fan_in_fan_out: false,
    init_lora_weights: true,
    arrow_config: {
      top_k: own.topK,
      router_temperature: own.temperature,
      use_gks: own.general.length > 0,
      task_adapter_names: own.experts.map((_, at) => taskName(at)),
      gks_adapter_names: own.general.map((_, at) => generalName(at)),
      rng_seed: own.rngSeed ?? null,
    },
  }),
  suffix: () => undefined,
  ignores: (suffix) => /^lora_[AB]\.weight$/.test(suffix),
  rewritten: idle,
  async completed({ config }, { read }) {
    const all = (list: readonly string[], from: number) =>
      Promise.all(list.map((name, at) => read(from + at, name, name)));
    const experts = await all(config.experts, 0);
    return overDirections(config, experts, await all(config.general, experts.length));
  },
  parts({ adaptation }) {
    const { experts, general } = adaptation.method as unknown as ArrowMethod;
    return new Map([
      ...experts.map((expert, at) => [taskName(at), expert] as const),
      ...general.map((adapter, at) => [generalName(at), adapter] as const),
    ]);
  },
};
