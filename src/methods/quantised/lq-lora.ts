import { z } from "zod";
import { TunesmithError } from "../../errors/index.js";
import {
  layoutOfNormalFloat,
  normalFloatParts,
  type Quantization,
  type QuantizedMatrix,
  storeMatrices,
} from "../../graph/index.js";
import {
  checkPlainBase,
  distinctWeights,
  type Model,
  pendingOf,
  probeOutputs,
  quantizableSites,
  type Site,
  sitesOf,
  storedOf,
  withQuantizedSites,
} from "../../models/index.js";
import { type NormalFloatLayout, normalFloatStorage, type Tensor } from "../../tensor/index.js";
import type { AdaptOptions } from "../adapt.js";
import { type Adapted, adaptedModel } from "../adapted.js";
import { calibrationMissing, chooseSites, createAdapter } from "../adapter.js";
import type { Calibration } from "../calibration.js";
import { parseConfig, siteConfigSchema } from "../config.js";
import { type LoraConfig, loraMethod } from "../lowrank/lora.js";
import type { Method, SiteConfig, SiteShape, TensorSpec } from "../method.js";
import type { Allocation } from "./bit-allocation.js";
import { type LqFactors, lqDecompose } from "./lq-decomposition.js";
import { type LqWeight, lqCandidates, lqPlan, uniformLayout } from "./lq-plan.js";
import { commonSettings, identityOf, printOf } from "./own-base.js";

const whole = () => z.number().int().positive();

const schema = siteConfigSchema.extend({
  rank: whole().default(64).describe("rank r of the part that is trained"),
  alpha: z.number().positive().default(16).describe("the trained part is scaled by alpha / rank"),
  dropout: z.number().min(0).lt(1).default(0).describe("dropout on the input of the trained part"),
  budgetBits: z
    .number()
    .positive()
    .optional()
    .describe("bits per adapted weight on average, scales included; default: 2.75, unless bits is given"),
  candidates: z
    .enum(["few", "all"])
    .default("few")
    .describe("layouts a budget chooses from: eight, or the paper's 432, which takes long"),
  costIters: whole().default(5).describe("rounds of the decomposition that layouts are compared after"),
  bits: whole().optional().describe("the same bits for every weight instead of a budget: 2, 3, 4 or 8"),
  blockSize: whole().optional().describe("with bits: weights that share a scale; default: 64"),
  scaleBits: whole().optional().describe("with bits: bits of a scale, 2, 3, 4 or 8; default: 8"),
  superBlock: whole().optional().describe("with bits: scales that share a factor; default: 256"),
  scaleDtype: z
    .enum(["float16", "bfloat16", "float32"])
    .optional()
    .describe("with bits: type of those factors; default: float32"),
  fisher: z
    .boolean()
    .default(false)
    .describe("weigh errors by squared gradients over calibration data (batches of one row as in the paper)"),
  maxIters: whole().default(100).describe("rounds of the decomposition at most"),
});

/** Configuration of LQ-LoRA, after defaults. */
export type LqLoraConfig = z.infer<typeof schema>;

const asLora = ({ rank, alpha, dropout, bias }: LqLoraConfig): LoraConfig => ({
  ...{ bias, rank, alpha, dropout, rslora: false, init: "default", dora: false, loraBias: false },
  ...{ rankPattern: {}, alphaPattern: {} },
});

function tensors(site: SiteShape, config: LqLoraConfig): Record<string, TensorSpec> {
  const init = () => {
    throw new TunesmithError(
      "config-invalid",
      `lq-lora: ${site.path} starts from a decomposition of its weight`,
      {
        fix: "make the model with lqLora(model, options) or applyMethod, not with adapt",
      },
    );
  };
  const specs: Record<string, TensorSpec> = loraMethod.tensors(site, asLora(config));
  return Object.fromEntries(Object.entries(specs).map(([name, spec]) => [name, { ...spec, init }]));
}

/**
 * The trained part of LQ-LoRA (arXiv 2311.12023): LoRA over the quantised part of the decomposition. Not for `adapt`: it comes with
 * a base of its own.
 */
export const lqLoraMethod: Method<LqLoraConfig> = {
  name: "lq-lora",
  summary: "weights split into a quantised part and a low-rank part, which is trained",
  paper: "2311.12023",
  schema,
  kinds: ["linear"],
  tensors,
  needs: ({ fisher }) => (fisher ? ["gradientSquare"] : []),
  additive: () => true,
  weight: (weight, values, site, config) => loraMethod.weight(weight, values, site, asLora(config)),
  lowRank: (weight, values, site, config) => loraMethod.lowRank(weight, values, site, asLora(config)),
  forward: (call, config) => loraMethod.forward(call, asLora(config)),
};

/** How one module was split. */
export interface LqSite {
  readonly path: string;
  readonly settings: Quantization;
  /** Bits per weight, everything counted that the quantised part is kept in. */
  readonly bits: number;
  /** ‖W − Q − L1·L2‖, weighed by Fisher information if there is any. */
  readonly error: number;
  readonly rounds: number;
}

/** What the decomposition came to. */
export interface LqReport {
  readonly sites: readonly LqSite[];
  /** Over all adapted weights; the trained part is not in it. */
  readonly bitsPerWeight: number;
  /** How the budget was spent; undefined without one. */
  readonly allocation: Allocation | undefined;
}

/** A model of LQ-LoRA: its base is the quantised part. */
export type LqAdapted<M extends Model = Model> = Adapted<M> & { readonly decomposition: LqReport };

/**
 * LQ-LoRA (arXiv 2311.12023): the weights of the targets are split into a quantised part, the base of the model that comes back,
 * and a low-rank part, an adapter over it that starts as what quantising would lose. Together they are nearly the given
 * weights; only the low-rank part is trained. With a budget every weight gets the layout that keeps the sum of squared errors
 * least. Saving the adapter saves the quantised weights beside it; `loadAdapter` on the given model puts both back.
 *
 * Throws `config-invalid` (also for a base that is quantised or has adapters), `target-not-found`, `target-unsupported`, `calibration-missing`.
 *
 * @example
 * ```ts
 * import { lqLora, saveAdapter } from "tunesmith/methods";
 * import { loadModel } from "tunesmith/models";
 * const model = await lqLora(await loadModel("path/to/model"), { rank: 16, budgetBits: 2.75, targets: "all-linear" });
 * console.log(model.decomposition.bitsPerWeight, model.quantization?.keptBytes);
 * // ... train(model, ...)
 * await saveAdapter(model, "adapter");
 * ```
 */
export async function lqLora<M extends Model>(
  model: M,
  options: z.input<typeof schema> = {},
  how: AdaptOptions = {},
): Promise<LqAdapted<M>> {
  const config = parseConfig("lq-lora", schema, options);
  checkConfig(config);
  checkPlainBase(model);
  const { name = "default", seed = 0, calibration } = how;
  if (config.fisher && !calibration?.statistics.includes("gradientSquare"))
    throw calibrationMissing("lq-lora", "gradientSquare");
  const adaptation = { method: lqLoraMethod as unknown as Method<SiteConfig>, config };
  const chosen = decomposable(model, chooseSites(model, sitesOf(probeOutputs(model)), adaptation), config);
  const sites = distinctWeights(chosen);
  const weights = sites.map((site) => pendingWeight(site, config, calibration));
  const plan = await planFor(weights, config);
  const split = await splitWeights(weights, sites, plan.layouts, config);
  const own = { settings: commonSettings(split.settings), left: [], own: split.identity };
  const base = withQuantizedSites(model, chosen, split.matrices, own);
  const factors = new Map(sites.map((site, at) => [storedOf(site.weight), split.factors[at]] as const));
  const known = new Map(chosen.map((site) => [site.path, factors.get(storedOf(site.weight))] as const));
  const root = Math.sqrt(config.alpha / config.rank);
  const adapter = await createAdapter(base, adaptation, {
    ...{ name, seed, calibration },
    stored: async (site, key) => {
      const own = known.get(site?.path ?? "");
      return (key === "lora_A" ? own?.l2 : own?.l1)?.map((value) => value / root);
    },
  });
  const adapted = adaptedModel(base, new Map([[name, adapter]]), [name]);
  const decomposition = { ...reportOf(split.sites, weights), allocation: plan.allocation };
  return Object.assign({}, adapted, { decomposition });
}

const LAYOUT = ["blockSize", "scaleBits", "superBlock", "scaleDtype"] as const;

function checkConfig(config: LqLoraConfig): void {
  const { bits, budgetBits } = config;
  if (bits !== undefined && budgetBits !== undefined) {
    throw new TunesmithError("config-invalid", "lq-lora: both bits and budgetBits are given", {
      fix: "bits is one layout for all weights; with budgetBits each gets its own",
    });
  }
  if (bits !== undefined) uniformLayout({ ...config, bits });
  const idle = bits === undefined && LAYOUT.find((name) => config[name] !== undefined);
  if (!idle) return;
  throw new TunesmithError("config-invalid", `lq-lora: ${idle} does nothing without bits`, {
    fix: "give bits, or leave it out: the budget chooses layouts",
  });
}

/** Throws for a target whose weight cannot be split so. */
function decomposable(model: Model, chosen: readonly Site[], config: LqLoraConfig): readonly Site[] {
  const sizes = config.bits === undefined ? [64, 16] : [config.blockSize ?? 64];
  const { left } = quantizableSites(model, {
    exclude: undefined,
    head: true,
    misfit: (rows, columns) =>
      sizes.some((size) => (rows * columns) % size === 0)
        ? undefined
        : `${rows} x ${columns} weights do not divide into blocks of ${sizes.join(" or ")}`,
  });
  const reasons = new Map(left.map(({ path, reason }) => [path, reason] as const));
  for (const { path, inFeatures, outFeatures } of chosen) {
    const most = Math.min(inFeatures, outFeatures);
    if (config.rank > most) {
      throw new TunesmithError(
        "config-invalid",
        `lq-lora: rank ${config.rank} exceeds what ${path} allows (${most})`,
        { fix: `choose rank <= ${most}` },
      );
    }
    const reason = reasons.get(path);
    if (reason === undefined) continue;
    throw new TunesmithError("target-unsupported", `lq-lora cannot split ${path}: ${reason}`, {
      fix: "leave it out of the targets",
      details: { path },
    });
  }
  return chosen;
}

const pendingWeight = (
  site: Site,
  { fisher }: LqLoraConfig,
  calibration: Calibration | undefined,
): LqWeight => {
  const { name: _, ...rest } = pendingOf(site);
  return {
    ...rest,
    path: site.path,
    async fisher() {
      if (!fisher) return undefined;
      const found = await calibration?.statistic(site.path, "gradientSquare");
      if (!found) throw calibrationMissing("lq-lora", "gradientSquare");
      return found;
    },
  };
};

async function planFor(
  weights: readonly LqWeight[],
  config: LqLoraConfig,
): Promise<{ layouts: readonly NormalFloatLayout[]; allocation: Allocation | undefined }> {
  const { bits, budgetBits = 2.75, rank, costIters } = config;
  if (bits === undefined) {
    const candidates = lqCandidates(config.candidates);
    return lqPlan(weights, { rank, budgetBits, candidates, costIters });
  }
  const layout = layoutOfNormalFloat(uniformLayout({ ...config, bits }));
  return { layouts: weights.map(() => layout), allocation: undefined };
}

/** Decomposes one weight at a time; quantised parts go to a temporary file, factors stay in memory. */
async function splitWeights(
  weights: readonly LqWeight[],
  stored: readonly Site[],
  layouts: readonly NormalFloatLayout[],
  { rank, maxIters }: LqLoraConfig,
) {
  const factors: LqFactors[] = [];
  const prints: string[] = [];
  const sites: LqSite[] = [];
  const settings: Quantization[] = [];
  const matrices = await storeMatrices(
    weights.map(({ path, rows, columns, load, fisher }, at) => ({
      name: (stored[at] as Site).weightName,
      async make() {
        const layout = layouts[at] as NormalFloatLayout;
        const options = { rank, layout, maxIters, fisher: await fisher() };
        const { l1, l2, quantised, error, errors } = await lqDecompose(await load(), rows, columns, options);
        factors.push({ l1, l2 });
        settings.push({ kind: "nf", ...layout });
        const bits = normalFloatStorage(layout, rows * columns) / (rows * columns);
        sites.push({ path, settings: { kind: "nf", ...layout }, bits, error, rounds: errors.length });
        const matrix: QuantizedMatrix<Tensor> = {
          ...{ rows, columns, settings: { kind: "nf", ...layout } },
          parts: normalFloatParts(quantised),
        };
        prints.push(await printOf(matrix));
        return matrix;
      },
    })),
  );
  return { matrices, factors, settings, sites, identity: await identityOf(prints) };
}

function reportOf(sites: readonly LqSite[], weights: readonly LqWeight[]): Omit<LqReport, "allocation"> {
  const sizes = weights.map(({ rows, columns }) => rows * columns);
  const total = sizes.reduce((a, b) => a + b, 0);
  const bits = sites.reduce((sum, site, at) => sum + site.bits * (sizes[at] as number), 0);
  return { sites, bitsPerWeight: bits / total };
}
