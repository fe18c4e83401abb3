import type { z } from "zod";
import type { Value } from "../graph/index.js";
import type { ConvShape, Parameter, Site, Tokenizer, TrainingHooks } from "../models/index.js";
import type { PassText } from "./pass-text.js";
import type { TargetSelection } from "./targets.js";

/** A site's geometry as methods see it: weights are always `[out, in]`, whatever their orientation in the file. */
export interface SiteShape {
  readonly path: string;
  readonly kind: Site["kind"];
  /** Input features; for an embedding the number of rows, for a convolution channels per group times taps. */
  readonly inFeatures: number;
  /** Output features or channels; for an embedding its width. */
  readonly outFeatures: number;
  readonly hasBias: boolean;
  readonly conv?: ConvShape;
}

/**
 * What a start may be computed from besides the weight, over calibration data: `covariance` XᵀX / n of a site's inputs
 * `[in, in]` (uncentred), `rows` that n, `[1]`, `inputMean` and `inputMeanAbs` `[in]`, `gradient` the mean gradient of the weight and
 * `gradientSquare` the mean over batches of its elementwise square, `[out, in]`.
 */
export type Statistic = "rows" | "covariance" | "inputMean" | "inputMeanAbs" | "gradient" | "gradientSquare";

/** What an initialiser may use. Random numbers depend only on seed, site and tensor name. */
export interface InitContext {
  readonly site: SiteShape;
  /** Seed of the adapter. */
  readonly seed: number;
  /** A statistic of this site, float32. Throws `calibration-missing` when `adapt` was given no calibration with it. */
  statistic(name: Statistic): Promise<Float32Array>;
  /** float32 standard normal or uniform numbers of this tensor's own stream. */
  normal(count: number, std?: number): Float32Array;
  uniform(count: number, low: number, high: number): Float32Array;
  /** The base weight, `[out, in]` row-major float32 (an embedding: `[width, rows]`). */
  weight(): Promise<Float32Array>;
  /** The base bias `[out]`, if the map has one. */
  bias?(): Promise<Float32Array | undefined>;
  /** On a model that `quantizeModel` made, the weight as it was before; undefined on others. */
  original?(): Promise<Float32Array | undefined>;
  /** A tensor of this adapter that all sites read, by its name in `shared`: those are made first. */
  shared?(name: string): TensorNumbers | undefined;
  /** Result of `compute`, run once per site however many tensors ask (an SVD shared by A and B). */
  once<T>(key: string, compute: () => Promise<T>): Promise<T>;
}

/** Numbers of a tensor: float32, or the type of a mask or of indices. */
export type TensorNumbers = Float32Array | BigInt64Array | Int32Array | Uint8Array;

export interface TensorSpec {
  readonly shape: readonly number[];
  /** Default float32; others are frozen. */
  readonly dtype?: "float32" | "int64" | "int32" | "bool";
  /** Frozen tensors are fed, but get no gradient. */
  readonly trainable: boolean;
  /** Whether files hold it; false for frozen tensors that a seed gives back. Default true. */
  readonly stored?: boolean;
  /**
   * Reached only through routing: an expert that no token may choose, a gate whose choice may be settled. Training then minds
   * only if all such tensors of the adapter are without gradient. Default false.
   */
  readonly routed?: boolean;
  init(context: InitContext): Promise<TensorNumbers> | TensorNumbers;
}

/** What an initialiser of a shared tensor may use: no site, but all of them. */
export type SharedInitContext = Pick<InitContext, "seed" | "normal" | "uniform" | "once"> & {
  readonly sites: readonly SiteShape[];
  /** The base weight of one of them, as in `InitContext`. */
  weight?(path: string): Promise<Float32Array>;
};

/** A tensor that all sites of an adapter read, or some of them. */
export interface SharedSpec extends Omit<TensorSpec, "init"> {
  /** The sites that read it, by path, and their name for it. Default: all, by the name it has here. */
  readonly readers?: { readonly paths: readonly string[]; readonly as: string };
  init(context: SharedInitContext): Promise<TensorNumbers> | TensorNumbers;
}

export type TensorValues = Readonly<Record<string, Value>>;

/** One application of a method at a site, on activations. */
export interface SiteCall {
  readonly site: SiteShape;
  readonly tensors: TensorValues;
  /** What enters the map: `[tokens, in]`, int64 ids of any shape for an embedding, `[batch, channels, ...space]` for a convolution. */
  readonly x: Value;
  /** What the map gives without this adapter, `[tokens, out]`, or `[batch, out, ...space]`. */
  readonly y: Value;
  /** The site's own map with another weight `[k, in]` in the place of W and no bias: `k` features for each output. */
  apply(x: Value, weight: Value): Value;
  /** `matrix` `[k', k]` times the `k` features of each output of `h`; accumulated onto `onto`, times `alpha`. */
  mix(h: Value, matrix: Value, options?: { readonly onto?: Value; readonly alpha?: number }): Value;
  /** One number per feature `[k]`, shaped to broadcast over outputs. */
  perFeature(vector: Value): Value;
  /** The map's effective weight `[out, in]` below this adapter, as a value. */
  readonly weight: () => Value;
  /** Its bias `[out]`, if it has one, shaped to broadcast over outputs. */
  readonly bias: Value | undefined;
  /** Strength of the adapter, a scalar that is fed: 1 normally, 0 when disabled. */
  readonly gate: Value;
  /** The activations with dropout while training, themselves otherwise. */
  readonly dropped: (x: Value, probability: number) => Value;
  readonly training: boolean;
  /** How many maps the adapter has: what terms of the loss are a mean over. */
  readonly sites: number;
  /** Fresh numbers of the shape of `like` at every training step; `key` tells several of one site apart. */
  noise(like: Value, kind: "normal" | "uniform", key?: string): Value;
  /** Adds a scalar to the loss of a training pass: a prior, a balance. Ignored outside training. */
  addLoss(term: Value): void;
  /** float32 `[tokens]`, 0 for rows of padding; undefined where every row counts, or which are data is not known. */
  readonly mask: Value | undefined;
  /** The tokens behind the rows; undefined where rows are of something else, or may be some of them only, as at an output head. */
  text(): PassText | undefined;
  /** Numbers that add up over data, for whoever wants to see them (`talliesOf`): how many rows went where. */
  tally(name: string, sums: Value): void;
  /**
   * Of a method that lays two passes: the last hidden state `[tokens, width]` that the first gave, held constant; undefined in
   * that first pass, and for other methods.
   */
  readonly hidden: Value | undefined;
  /** What this adapter's sites hand to later ones in the same forward pass. */
  readonly pass: Map<string, Value>;
}

/** An adapter as hooks see it: its live tensors. */
export interface HookContext<Config> {
  /** Name of the adapter: the first part of its parameters' names. */
  readonly name: string;
  readonly config: Config;
  readonly sites: readonly HookSite[];
  readonly shared: Readonly<Record<string, Parameter>>;
}

export interface HookSite {
  readonly shape: SiteShape;
  /** Name of the base weight in the file: what `wantedWeights` may ask the gradient of. */
  readonly weightName: string;
  readonly tensors: Readonly<Record<string, Parameter>>;
  /** A gradient of the weight as it lies in the file, turned to `[out, in]`. */
  oriented(gradient: Float32Array): Float32Array;
}

/** A float tensor of the base where a module reads it. */
export interface BaseTensor {
  /** Of the module. */
  readonly path: string;
  /** What it is to the module: `weight`, `bias`, `running_mean`. */
  readonly leaf: string;
  /** Scale or shift of a norm. */
  readonly isNorm: boolean;
}

/** The configuration every method's sites have in common. */
export interface SiteConfig {
  readonly targets?: TargetSelection["targets"] | undefined;
  readonly exclude?: TargetSelection["exclude"];
  readonly layers?: readonly number[] | undefined;
  readonly layersPattern?: TargetSelection["layersPattern"];
  readonly modulesToSave?: readonly string[] | undefined;
  readonly bias?: "none" | "all" | "adapted" | undefined;
  readonly trainableTokens?: readonly number[] | Readonly<Record<string, readonly number[]>> | undefined;
}

/**
 * A reparametrisation of linear maps: a config schema, the tensors of a site, and its mathematics written once as
 * graph code. Targets, merging, saving, counting, switching, blending and receipts come from the framework.
 *
 * To add one:
 * 1. One file in the folder of its family. Extend `siteConfigSchema` with its own options, each with a default and a
 *    description: the schema gives the type, the command-line flags and the error messages.
 * 2. `tensors` says what a site holds; `weight` what W becomes. That is enough: activations then go through the changed
 *    weight. Where they can be had cheaper, `forward` says how, in terms of `apply`, `mix` and `perFeature`, which hide
 *    whether the site is a linear map, an embedding or a convolution. It must equal the map with `weight(W)`: merging
 *    compares the two and refuses when they differ.
 * 3. Start as the identity. Where tensors start as a part of W (PiSSA), keep a frozen copy of that start and subtract
 *    it, so that the base stays untouched. A start that depends on data says so in `needs` and reads `statistic`.
 *    Tensors that all sites read come from `shared`; what happens between steps (masks, ranks, phases) from `hooks`; terms of
 *    the loss from `penalty` (over tensors) or `addLoss` (over activations).
 * 4. One line in catalog.ts; the names of its tensors and options in a file of peft/ if PEFT has the method.
 * 5. An experiment in proofs/ with what theory expects, and a test with wrong implementations that fail it.
 *
 * @example
 * ```ts
 * import { z } from "zod";
 * import { ops, type Value } from "tunesmith/graph";
 * import { type Method, siteConfigSchema } from "tunesmith/methods";
 *
 * // (IA)³ on outputs: W' = l ∘ W, one number per output row.
 * const schema = siteConfigSchema.extend({ start: z.number().default(1).describe("first value of l") });
 * type Config = z.infer<typeof schema>;
 * export const rowScale: Method<Config> = {
 *   name: "row-scale",
 *   summary: "one learned factor per output",
 *   paper: "2205.05638",
 *   schema,
 *   kinds: ["linear"],
 *   tensors: (site, config) => ({
 *     l: { shape: [site.outFeatures], trainable: true, init: () => new Float32Array(site.outFeatures).fill(config.start) },
 *   }),
 *   weight: (weight, { l }) => ops.mul(weight, ops.unsqueeze(l as Value, 1)),
 *   forward({ y, bias, gate, perFeature, tensors: { l } }) {
 *     const product = bias ? ops.sub(y, bias) : y;
 *     return ops.add(y, ops.mul(ops.sub(ops.mul(product, perFeature(l as Value)), product), gate));
 *   },
 * };
 * ```
 */
export interface Method<Config extends SiteConfig> {
  readonly name: string;
  /** One line for tables and help. */
  readonly summary: string;
  /** arXiv identifier, or the address of a paper that is not there. */
  readonly paper: string;
  readonly schema: z.ZodType<Config>;
  readonly kinds: readonly Site["kind"][];
  /**
   * For a method about tensors of the base rather than maps, whose `kinds` are then none: what it trains as it is, in the
   * modules that `targets` selects (default: all). Strength scales the change, and the changes of several adapters add up.
   */
  readonly whole?: { readonly of: string; takes(tensor: BaseTensor, config: Config): boolean };
  /** Tensors of one site. */
  tensors(site: SiteShape, config: Config): Readonly<Record<string, TensorSpec>>;
  /** Tensors of the adapter that every site reads, beside its own in `tensors` of a call; names must not clash. */
  shared?(sites: readonly SiteShape[], config: Config): Readonly<Record<string, SharedSpec>>;
  /** Statistics its initialisers ask for with this configuration, so that missing calibration is an error up front. */
  needs?(config: Config): readonly Statistic[];
  /**
   * The configuration once data and model are known: ranks shared out among sites, sites left out, texts as tokens. Asked once, for a fresh adapter
   * and before its tensors; not for one that is read from a file.
   */
  settle?(config: Config, context: Settling): Promise<Config>;
  /** W' from W `[out, in]` at full strength; what merging computes. W itself when the tensors are at their start. */
  weight(weight: Value, tensors: TensorValues, site: SiteShape, config: Config): Value;
  /** Whether W' − W does not depend on W with this configuration; then `map` can wrap it. Default: it may. */
  additive?(config: Config): boolean;
  /** Why it cannot be merged, for an update that no weight can hold; `weight` then gives W, and `forward` all of it. */
  unmergeable?(config: Config): string | undefined;
  /**
   * What it adds to the bias `[out]` at full strength, if anything; `bias`, if any, and `weight` `[out, in]` are those below
   * this adapter.
   */
  biasDelta?(
    tensors: TensorValues,
    site: SiteShape,
    config: Config,
    bias: Value | undefined,
    weight: () => Value,
  ): Value | undefined;
  /** The same as a low-rank update, where it is one: W' = W + b·a, with a `[r, in]` and b `[out, r]`. For `toLora`. */
  lowRank?(
    weight: Value,
    tensors: TensorValues,
    site: SiteShape,
    config: Config,
  ): { readonly a: Value; readonly b: Value } | undefined;
  /**
   * The map's output with the adapter, shaped as `y`: `y` plus `gate` times what the adapter adds to it. Not used for
   * convolutions in groups, whose features do not mix. Default, and where it gives undefined: the map with the changed
   * weight.
   */
  forward?(call: SiteCall, config: Config): Value | undefined;
  /** Tokens that a row must end with for the method to do anything: receipts look at such a row. Default: none. */
  probeTail?(config: Config): readonly number[];
  /**
   * Whether it needs a first pass over the same rows, for `hidden`. That pass has the adapters alone that ask for it; where
   * `forward` gives `y` in it, it is the base's own. Keys and values of two passes are not kept: texts are decoded without a cache.
   */
  readonly twoPasses?: boolean;
  /** Scalar added to the loss of every update: a regulariser over the tensors of all sites. */
  penalty?(sites: readonly SiteTensors[], config: Config): Value | undefined;
  /** What it does between the steps of a run. */
  hooks?(context: HookContext<Config>): TrainingHooks;
  /**
   * Options that give it the size `size` (1, 2, ...), for comparisons at an equal number of trained parameters. Default:
   * `rank`, where its schema has one; else its size is fixed.
   */
  sized?(size: number): Readonly<Record<string, unknown>>;
}

/** The tensors of one site as values, shared ones included. */
export interface SiteTensors {
  readonly site: SiteShape;
  readonly tensors: TensorValues;
}

/** What `settle` may look at. */
export interface Settling {
  readonly sites: readonly SiteShape[];
  /** A statistic of one site, as in `InitContext`. */
  statistic(path: string, name: Statistic): Promise<Float32Array>;
  /** The model's, where it has one. */
  readonly tokenizer: Tokenizer | undefined;
}

/** A method with its validated configuration: what `adapt` takes. */
export interface Adaptation<Config extends SiteConfig = SiteConfig> {
  readonly method: Method<Config>;
  readonly config: Config;
}
