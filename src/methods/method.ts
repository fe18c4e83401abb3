import type { z } from "zod";
import type { Value } from "../graph/index.js";
import type { Site } from "../models/index.js";
import type { Tensor } from "../tensor/index.js";
import type { TargetSelection } from "./targets.js";

/** A site's geometry as methods see it: weights are always `[out, in]`, whatever their orientation in the file. */
export interface SiteShape {
  readonly path: string;
  readonly kind: Site["kind"];
  /** Input features; for an embedding the number of rows. */
  readonly inFeatures: number;
  /** Output features; for an embedding its width. */
  readonly outFeatures: number;
  readonly hasBias: boolean;
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
  /** What enters the map: `[tokens, in]`, or int64 ids of any shape for an embedding. */
  readonly x: Value;
  /** What the map gives without this adapter, `[tokens, out]`. */
  readonly y: Value;
  /** The map's effective weight `[out, in]` below this adapter, as a value. */
  readonly weight: () => Value;
  /** Its bias, if it has one. */
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
  /** W' from W `[out, in]` at full strength; what merging computes. */
  weight(weight: Value, tensors: TensorValues, site: SiteShape, config: Config): Value;
  /** What it adds to the bias `[out]` at full strength, if anything. */
  biasDelta?(tensors: TensorValues, site: SiteShape, config: Config): Value | undefined;
  /** The map's output with the adapter, `[tokens, out]`; must agree with `weight`. */
  forward(call: SiteCall, config: Config): Value;
}

/** A method with its validated configuration: what `adapt` takes. */
export interface Adaptation<Config extends SiteConfig = SiteConfig> {
  readonly method: Method<Config>;
  readonly config: Config;
}

/** Tensors by site and name. */
export type SiteTensors = ReadonlyMap<string, Readonly<Record<string, Tensor>>>;
