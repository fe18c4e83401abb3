import { z } from "zod";
import { ops, type Value } from "../../graph/index.js";
import { parseConfig, siteConfigSchema } from "../config.js";
import type { Adaptation, Method, SharedSpec, SiteShape, TensorSpec, TensorValues } from "../method.js";
import { tapped } from "../taps.js";
import { kindOf, placeOf } from "./diffora-table.js";
import { type LoraConfig, lora } from "./lora.js";
import { loraInits } from "./lora-init.js";
import { loraScale } from "./scale.js";

const schema = siteConfigSchema.extend({
  rank: z.number().int().positive().default(8).describe("rank r of every update"),
  alpha: z.number().positive().default(8).describe("updates are scaled by alpha / rank"),
  dropout: z.number().min(0).lt(1).default(0).describe("dropout on the input of the update while training"),
  relax: z
    .enum(["sigmoid", "softmax"])
    .default("sigmoid")
    .describe("gates by themselves, or the kinds of a layer against one another"),
  fraction: z.number().gt(0).max(1).default(0.5).describe("share of the modules that get an update"),
  perLayer: z
    .number()
    .int()
    .positive()
    .optional()
    .describe("how many modules of a layer, instead of a share"),
  scope: z
    .enum(["layer", "global"])
    .default("layer")
    .describe("so many of every layer, or as many of all layers together"),
  order: z
    .number()
    .int()
    .min(1)
    .max(2)
    .default(1)
    .describe("2: gates also account for what they do to the update that follows"),
  searchSteps: z
    .number()
    .int()
    .positive()
    .optional()
    .describe("steps of the search before the run; default: a quarter of the run's"),
  gateLr: z
    .number()
    .positive()
    .optional()
    .describe("learning rate of the gates; default: five times that of the updates"),
  gateDecay: z.number().min(0).default(1e-3).describe("weight decay of the gates' logits"),
  searchSplit: z
    .number()
    .gt(0)
    .lt(1)
    .default(0.5)
    .describe("share of the data that updates learn from in the search; gates learn from the rest"),
  unselected: z
    .enum(["none", "shared"])
    .default("none")
    .describe("shared: modules that were not selected have one update per kind, for all layers"),
  warmStart: z.boolean().default(false).describe("begin the run with the updates of the search"),
  kernelSamples: z
    .number()
    .int()
    .min(0)
    .default(0)
    .describe("report the least eigenvalue of the selected modules' kernel over so many samples"),
  selected: z
    .array(z.string())
    .min(1)
    .optional()
    .describe("modules that an earlier search selected; default: all, behind gates"),
});

/** Configuration of DiffoRA, after defaults. */
export type DifforaConfig = z.infer<typeof schema>;

/** A gate's logit among the tensors that all sites read. */
export const logitOf = (path: string): string => `logit.${path}`;

const isRelaxed = ({ selected }: DifforaConfig): boolean => selected === undefined;

/** The pair of a site, or of all sites of a kind, started as LoRA's. */
function pair(site: SiteShape, config: DifforaConfig): Record<"lora_A" | "lora_B", TensorSpec> {
  const { rank, scale } = loraScale(site.path, config);
  const { a, b } = loraInits("default", site, rank, scale);
  return {
    lora_A: { shape: [rank, site.inFeatures], trainable: true, init: a },
    lora_B: { shape: [site.outFeatures, rank], trainable: true, init: b },
  };
}

/** One pair per kind and shape of the sites that were not selected. */
function sharedPairs(sites: readonly SiteShape[], config: DifforaConfig): Record<string, SharedSpec> {
  const own = new Set(config.selected);
  const kinds = new Map<string, SiteShape[]>();
  for (const site of sites)
    if (!own.has(site.path)) kinds.set(kindOf(site), [...(kinds.get(kindOf(site)) ?? []), site]);
  const specs: Record<string, SharedSpec> = {};
  for (const [kind, members] of kinds) {
    const [first] = members as [SiteShape, ...SiteShape[]];
    const paths = members.map(({ path }) => path);
    const bound = 1 / Math.sqrt(first.inFeatures);
    specs[`lora_A.${kind}`] = {
      shape: [config.rank, first.inFeatures],
      trainable: true,
      readers: { paths, as: "lora_A" },
      init: ({ uniform }) => uniform(config.rank * first.inFeatures, -bound, bound),
    };
    specs[`lora_B.${kind}`] = {
      shape: [first.outFeatures, config.rank],
      trainable: true,
      readers: { paths, as: "lora_B" },
      init: () => new Float32Array(first.outFeatures * config.rank),
    };
  }
  return specs;
}

/** G of a site: sigmoid of its logit, or softmax over its layer times the number of kinds there; undefined for 1. */
export function gateOf(values: TensorValues, path: string, relax: DifforaConfig["relax"]): Value | undefined {
  const own = values[logitOf(path)];
  if (!own || relax === "sigmoid") return own && ops.sigmoid(own);
  const { layer } = placeOf(path);
  const prefix = logitOf("");
  const row = Object.keys(values).filter(
    (key) => key.startsWith(prefix) && placeOf(key.slice(prefix.length)).layer === layer,
  );
  const logits = ops.concat(
    row.map((key) => ops.reshape(values[key] as Value, [1])),
    0,
  );
  const at = row.indexOf(logitOf(path));
  const share = ops.reshape(ops.slice(ops.softmax(logits, 0), 0, at, at + 1), []);
  return ops.mul(share, row.length);
}

/**
 * DiffoRA (arXiv 2502.08905): W' = W + G·s·B·A with a learned gate G per module while it is decided which modules deserve an
 * update; G is 0 or 1 afterwards. `searchModules` decides.
 */
export const difforaMethod = {
  name: "diffora",
  summary: "LoRA at the modules that deserve it, found with differentiable gates on held-out data",
  paper: "2502.08905",
  schema,
  kinds: ["linear", "conv"],
  tensors: (site, config) =>
    isRelaxed(config) || config.selected?.includes(site.path) ? pair(site, config) : {},
  shared(sites, config) {
    if (!isRelaxed(config)) return sharedPairs(sites, config);
    const logit: SharedSpec = { shape: [], trainable: true, init: () => new Float32Array(1) };
    return Object.fromEntries(sites.map(({ path }) => [logitOf(path), logit]));
  },
  lowRank(_, values, { path }, config) {
    const { lora_A: a, lora_B: b } = values as Record<string, Value>;
    const scaled = ops.mul(b as Value, loraScale(path, config).scale);
    const gain = gateOf(values, path, config.relax);
    return { a: a as Value, b: gain ? ops.mul(scaled, gain) : scaled };
  },
  weight(weight, values, { path }, config) {
    const { lora_A: a, lora_B: b } = values as Record<string, Value>;
    const gain = gateOf(values, path, config.relax);
    const left = gain ? ops.mul(b as Value, gain) : (b as Value);
    return ops.gemm(left, a as Value, weight, { alpha: loraScale(path, config).scale });
  },
  forward({ x, y, gate, tensors, site, apply, mix, dropped }, config) {
    const { lora_A: a, lora_B: b } = tensors as Record<string, Value>;
    const input = config.dropout > 0 ? dropped(x, config.dropout) : x;
    const gain = gateOf(tensors, site.path, config.relax);
    const h = tapped(site.path, () => apply(input, a as Value));
    const gated = ops.mul(h, gain ? ops.mul(gate, gain) : gate);
    return mix(gated, b as Value, { onto: y, alpha: loraScale(site.path, config).scale });
  },
} satisfies Method<DifforaConfig>;

/**
 * DiffoRA with a configuration: the gated updates that `searchModules` chooses among.
 *
 * Throws `config-invalid` naming the field.
 *
 * @example
 * ```ts
 * import { diffora } from "tunesmith/methods";
 * const candidates = diffora({ rank: 8, perLayer: 2, targets: "all-linear" });
 * console.log(candidates.config.searchSplit); // 0.5
 * ```
 */
export function diffora(config: z.input<typeof schema> = {}): Adaptation<DifforaConfig> {
  return { method: difforaMethod, config: parseConfig("diffora", schema, config) };
}

/** A configuration as what is trained: with modules `selected`, and no updates for others, plain LoRA at those. */
export function settled(config: DifforaConfig): Adaptation<DifforaConfig> | Adaptation<LoraConfig> {
  const { selected, unselected, rank, alpha, dropout } = config;
  if (selected === undefined || unselected === "shared") return { method: difforaMethod, config };
  const { bias, modulesToSave, trainableTokens } = config;
  const common = Object.entries({ bias, modulesToSave, trainableTokens }).filter(
    ([, value]) => value !== undefined,
  );
  return lora({ ...Object.fromEntries(common), rank, alpha, dropout, targets: selected });
}
