import { z } from "zod";
import { ops, type Value } from "../../graph/index.js";
import { randomizedSvd, svd } from "../../runtime/linalg/index.js";
import { mt19937 } from "../../runtime/random/index.js";
import { parseConfig, siteConfigSchema } from "../config.js";
import type {
  Adaptation,
  InitContext,
  Method,
  SharedSpec,
  SiteShape,
  TensorSpec,
  TensorValues,
} from "../method.js";

const schema = siteConfigSchema.extend({
  rank: z.number().int().positive().default(2).describe("singular directions r of each weight that are kept"),
  vectorLength: z.number().int().positive().default(64).describe("numbers u of a trained vector"),
  weightTying: z
    .number()
    .min(0)
    .max(1)
    .default(0)
    .describe("share of the modules that do without a vector of their own; 1: all share one"),
  dropout: z.number().min(0).lt(1).default(0).describe("dropout on the input of the update while training"),
  bound: z
    .number()
    .nonnegative()
    .default(0)
    .describe("vectors start uniform between plus and minus this; 0: as the base"),
  svd: z.enum(["full", "randomized"]).default("full").describe("how the directions are found"),
  projectionSeed: z.number().int().nonnegative().default(42).describe("seed of the random matrices"),
  saveProjection: z.boolean().default(true).describe("write the random matrices into files"),
});

/** Configuration of TinyLoRA, after defaults. */
export type TinyloraConfig = z.infer<typeof schema>;

const rankOf = ({ inFeatures, outFeatures }: SiteShape, { rank }: TinyloraConfig): number =>
  Math.min(rank, inFeatures, outFeatures);

/** Runs of neighbouring modules that share a vector. */
function groups(sites: readonly SiteShape[], { weightTying }: TinyloraConfig): SiteShape[][] {
  const count = Math.max(1, halfToEven(sites.length * (1 - weightTying)));
  const size = Math.max(1, Math.floor(sites.length / count));
  return Array.from({ length: Math.min(count, sites.length) }, (_, at) =>
    sites.slice(at * size, at === count - 1 ? undefined : (at + 1) * size),
  );
}

/** As Python rounds. */
const halfToEven = (value: number): number =>
  value % 1 === 0.5 ? 2 * Math.round(value / 2) : Math.round(value);

function shared(sites: readonly SiteShape[], config: TinyloraConfig): Record<string, SharedSpec> {
  const { vectorLength: u, bound, projectionSeed, saveProjection } = config;
  const vectors = groups(sites, config).map((group, at): [string, SharedSpec] => [
    `tinylora_v.${at}`,
    {
      shape: [u],
      trainable: true,
      readers: { paths: group.map(({ path }) => path), as: "tinylora_v" },
      init: ({ uniform }) => (bound > 0 ? uniform(u, -bound, bound) : new Float32Array(u)),
    },
  ]);
  const projections = sites.map((site, at): [string, SharedSpec] => {
    const r = rankOf(site, config);
    return [
      `${site.path}.tinylora_P`,
      {
        shape: [u, r, r],
        trainable: false,
        stored: saveProjection,
        readers: { paths: [site.path], as: "tinylora_P" },
        // PyTorch's generator, one seed per module.
        init: () => mt19937(projectionSeed + at).normal(u * r * r, 0, 1 / Math.sqrt(r)),
      },
    ];
  });
  return Object.fromEntries([...vectors, ...projections]);
}

/** √S·Vᵀ `[r, columns]` and U·√S `[rows, r]` of the weight as PyTorch has it: an embedding's rows are its first axis. */
async function directions(context: InitContext, config: TinyloraConfig) {
  const { site } = context;
  const r = rankOf(site, config);
  const own = { rows: site.outFeatures, cols: site.inFeatures, data: await context.weight() };
  const { u, s, vt } =
    config.svd === "full" ? svd(own) : await randomizedSvd(own, { rank: r, powerIterations: 10 });
  const root = (k: number) => Math.sqrt(s[k] as number);
  const right = new Float32Array(r * own.cols);
  const left = new Float32Array(own.rows * r);
  for (let k = 0; k < r; k++) {
    for (let j = 0; j < own.cols; j++)
      right[k * own.cols + j] = root(k) * (vt.data[k * own.cols + j] as number);
    for (let i = 0; i < own.rows; i++) left[i * r + k] = root(k) * (u.data[i * u.cols + k] as number);
  }
  if (site.kind !== "embedding") return { a: right, b: left };
  return { a: turned(left, own.rows, r), b: turned(right, r, own.cols) };
}

const turned = (data: Float32Array, rows: number, columns: number): Float32Array =>
  data.map((_, at) => data[(at % rows) * columns + Math.floor(at / rows)] as number);

function tensors(site: SiteShape, config: TinyloraConfig): Record<string, TensorSpec> {
  const r = rankOf(site, config);
  const isEmbedding = site.kind === "embedding";
  const [rows, columns] = isEmbedding
    ? [site.inFeatures, site.outFeatures]
    : [site.outFeatures, site.inFeatures];
  const found = (context: InitContext) => context.once("directions", () => directions(context, config));
  return {
    tinylora_A: { shape: [r, columns], trainable: false, init: async (context) => (await found(context)).a },
    tinylora_B: { shape: [rows, r], trainable: false, init: async (context) => (await found(context)).b },
  };
}

/** A `[r, in]` and B·R `[out, r]`. */
function factors(values: TensorValues, { kind }: SiteShape): { a: Value; b: Value } {
  const { tinylora_A: a, tinylora_B: b, tinylora_P: p, tinylora_v: v } = values as Record<string, Value>;
  const [u, r] = (p as Value).shape as [number, number, number];
  const flat = ops.matmul(ops.reshape(v as Value, [1, u]), ops.reshape(p as Value, [u, r * r]));
  const mixed = ops.reshape(flat, [r, r]);
  if (kind !== "embedding") return { a: a as Value, b: ops.matmul(b as Value, mixed) };
  return { a: ops.transpose(b as Value, [1, 0]), b: ops.transpose(ops.matmul(mixed, a as Value), [1, 0]) };
}

/**
 * TinyLoRA (arXiv 2602.04118): W' = W + B·(Σᵢ vᵢ·Pᵢ)·A, A and B the leading singular directions of W, P random, all frozen; v is
 * trained, and modules may share it: down to one number for a model.
 */
export const tinyloraMethod = {
  name: "tinylora",
  summary: "a few numbers that mix random changes of each weight's leading directions",
  paper: "2602.04118",
  schema,
  kinds: ["linear", "embedding"],
  shared,
  tensors,
  sized: (size) => ({ vectorLength: size }),
  lowRank: (_, values, site) => factors(values, site),
  weight(weight, values, site) {
    const { a, b } = factors(values, site);
    return ops.gemm(b, a, weight);
  },
  forward({ x, y, gate, apply, mix, dropped, site, tensors: values }, { dropout }) {
    const { a, b } = factors(values, site);
    // Row numbers cannot be dropped: an embedding drops what they pick.
    const drop = (value: Value) => (dropout > 0 ? dropped(value, dropout) : value);
    const inner = site.kind === "embedding" ? drop(apply(x, a)) : apply(drop(x), a);
    return mix(ops.mul(inner, gate), b, { onto: y });
  },
} satisfies Method<TinyloraConfig>;

/**
 * TinyLoRA with a configuration. Defaults are PEFT's. Throws `config-invalid` naming the field.
 *
 * @example
 * ```ts
 * import { tinylora } from "tunesmith/methods";
 * // Thirteen numbers for all of the model.
 * const adaptation = tinylora({ vectorLength: 13, weightTying: 1, targets: "all-linear" });
 * ```
 */
export const tinylora = (config: z.input<typeof schema> = {}): Adaptation<TinyloraConfig> => ({
  method: tinyloraMethod,
  config: parseConfig("tinylora", schema, config),
});
