import { z } from "zod";
import { ops, type Value } from "../../graph/index.js";
import { parseConfig, siteConfigSchema } from "../config.js";
import type { Adaptation, Method, SharedSpec, SiteShape, TensorValues } from "../method.js";
import { randomBases } from "./random-bases.js";

const schema = siteConfigSchema.extend({
  rank: z.number().int().positive().default(32).describe("rank r of each random basis"),
  alpha: z.number().positive().default(640).describe("the update is scaled by alpha / rank"),
  dropout: z.number().min(0).lt(1).default(0).describe("dropout on the input of the update while training"),
  projectionSeed: z.number().int().nonnegative().default(0).describe("seed of the bases"),
  saveProjection: z.boolean().default(true).describe("write the bases into files"),
  density: z
    .enum(["dense", "sparse", "very-sparse"])
    .default("dense")
    .describe(
      "numbers of the bases: uniform, or -1, 0 and 1 with a third, or the root of the size, of them not 0",
    ),
});

/** Configuration of RandLoRA, after defaults. */
export type RandloraConfig = z.infer<typeof schema>;

const smaller = ({ inFeatures, outFeatures }: SiteShape) => Math.min(inFeatures, outFeatures);
const larger = ({ inFeatures, outFeatures }: SiteShape) => Math.max(inFeatures, outFeatures);

/** Bases n that together have full rank. */
const basesOf = (site: SiteShape, { rank }: RandloraConfig): number => Math.ceil(smaller(site) / rank);

function shared(sites: readonly SiteShape[], config: RandloraConfig): Record<string, SharedSpec> {
  const widest: SiteShape = {
    ...(sites[0] as SiteShape),
    inFeatures: Math.max(...sites.map(({ inFeatures }) => inFeatures)),
    outFeatures: Math.max(...sites.map(({ outFeatures }) => outFeatures)),
  };
  const { rank, projectionSeed: seed, density, saveProjection: stored } = config;
  const sizes = { rank, small: smaller(widest), large: larger(widest), bases: basesOf(widest, config) };
  const both = () => randomBases(sizes, seed, density);
  return {
    randlora_A: {
      shape: [rank, 1, sizes.small],
      trainable: false,
      stored,
      init: async ({ once }) => (await once("bases", async () => both())).a,
    },
    randlora_B: {
      shape: [sizes.large, sizes.bases, rank],
      trainable: false,
      stored,
      init: async ({ once }) => (await once("bases", async () => both())).b,
    },
  };
}

/**
 * The scaled basis of the smaller side `[r·n, small]` and the other `[large, n·r]`. The product runs over (rank, basis) in
 * one and (basis, rank) in the other, which is PEFT's sum and not the paper's; files depend on it.
 */
function factors(
  values: TensorValues,
  site: SiteShape,
  config: RandloraConfig,
): { thin: Value; wide: Value } {
  const { randlora_A: a, randlora_B: b, randlora_lambda: lambda, randlora_gamma: gamma } = values;
  const [small, large, bases] = [smaller(site), larger(site), basesOf(site, config)];
  const scaled = ops.mul(
    ops.mul(ops.slice(a as Value, 2, 0, small), ops.unsqueeze(lambda as Value, 2)),
    ops.unsqueeze(gamma as Value, 0),
  );
  const cut = ops.slice(ops.slice(b as Value, 0, 0, large), 1, 0, bases);
  return {
    thin: ops.reshape(scaled, [config.rank * bases, small]),
    wide: ops.reshape(cut, [large, bases * config.rank]),
  };
}

/** RandLoRA (arXiv 2502.00987): W' = W + (α/r)·Σ Bⱼ·Λⱼ·A·Γⱼ over random bases, an update of full rank from few numbers. */
export const randloraMethod = {
  name: "randlora",
  summary: "scaled sum of shared random bases, of full rank",
  paper: "2502.00987",
  schema,
  kinds: ["linear"],
  shared,
  tensors(site, config) {
    const [small, bases] = [smaller(site), basesOf(site, config)];
    return {
      randlora_lambda: {
        shape: [config.rank, bases],
        trainable: true,
        init: () => new Float32Array(config.rank * bases),
      },
      randlora_gamma: {
        shape: [bases, small],
        trainable: true,
        init: () => new Float32Array(bases * small).fill(1 / Math.max(bases, small)),
      },
    };
  },
  additive: () => true,
  weight(weight, values, site, config) {
    const { thin, wide } = factors(values, site, config);
    const alpha = config.alpha / config.rank;
    return smaller(site) === site.inFeatures
      ? ops.gemm(wide, thin, weight, { alpha })
      : ops.gemm(thin, wide, weight, { transA: true, transB: true, alpha });
  },
  forward({ x, y, gate, dropped, site, tensors: values }, config) {
    const { thin, wide } = factors(values, site, config);
    const input = config.dropout > 0 ? dropped(x, config.dropout) : x;
    const alpha = config.alpha / config.rank;
    const isThinFirst = smaller(site) === site.inFeatures;
    const codes = isThinFirst ? ops.gemm(input, thin, undefined, { transB: true }) : ops.gemm(input, wide);
    const gated = ops.mul(codes, gate);
    return isThinFirst
      ? ops.gemm(gated, wide, y, { transB: true, alpha })
      : ops.gemm(gated, thin, y, { alpha });
  },
} satisfies Method<RandloraConfig>;

/**
 * RandLoRA with a configuration. Defaults are PEFT's. Throws `config-invalid` naming the field.
 *
 * @example
 * ```ts
 * import { randlora } from "tunesmith/methods";
 * const adaptation = randlora({ rank: 16, targets: ["q_proj", "v_proj"] });
 * ```
 */
export const randlora = (config: z.input<typeof schema> = {}): Adaptation<RandloraConfig> => ({
  method: randloraMethod,
  config: parseConfig("randlora", schema, config),
});
