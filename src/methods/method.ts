import type { z } from "zod";
import type { Value } from "../graph/index.js";
import type { ConvShape, Site } from "../models/index.js";
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

/** What an initialiser may use. Random numbers depend only on seed, site and tensor name. */
export interface InitContext {
  readonly site: SiteShape;
  /** float32 standard normal or uniform numbers of this tensor's own stream. */
  normal(count: number, std?: number): Float32Array;
  uniform(count: number, low: number, high: number): Float32Array;
  /** The base weight, `[out, in]` row-major float32 (an embedding: `[width, rows]`). */
  weight(): Promise<Float32Array>;
  /** Result of `compute`, run once per site however many tensors ask (an SVD shared by A and B). */
  once<T>(key: string, compute: () => Promise<T>): Promise<T>;
}

export interface TensorSpec {
  readonly shape: readonly number[];
  /** Frozen tensors are stored and fed, but get no gradient. */
  readonly trainable: boolean;
  init(context: InitContext): Promise<Float32Array> | Float32Array;
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
 *    it, so that the base stays untouched.
 * 4. One line in registry.ts; the names of its tensors in peft/ if PEFT has the method.
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
  /** arXiv identifier. */
  readonly paper: string;
  readonly schema: z.ZodType<Config>;
  readonly kinds: readonly Site["kind"][];
  /** Tensors of one site. */
  tensors(site: SiteShape, config: Config): Readonly<Record<string, TensorSpec>>;
  /** W' from W `[out, in]` at full strength; what merging computes. W itself when the tensors are at their start. */
  weight(weight: Value, tensors: TensorValues, site: SiteShape, config: Config): Value;
  /** What it adds to the bias `[out]` at full strength, if anything. */
  biasDelta?(tensors: TensorValues, site: SiteShape, config: Config): Value | undefined;
  /**
   * The map's output with the adapter, shaped as `y`: `y` plus `gate` times what the adapter adds to it. Not used for
   * convolutions in groups, whose features do not mix. Default: the map with the changed weight.
   */
  forward?(call: SiteCall, config: Config): Value;
}

/** A method with its validated configuration: what `adapt` takes. */
export interface Adaptation<Config extends SiteConfig = SiteConfig> {
  readonly method: Method<Config>;
  readonly config: Config;
}
