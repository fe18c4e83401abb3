import type { z } from "zod";
import type { LmInputs, LmOutputs, LmSizes } from "./types.js";
import type { WeightSpec } from "./weight-specs.js";
import type { WeightReader } from "./weights.js";

/** One file per family of checkpoints: how to read its config and lay its graph. See CONTRIBUTING.md for the recipe. */
export interface ArchitectureDefinition<Config extends Record<string, unknown>> {
  /** `model_type` values of config.json it answers to. */
  readonly modelTypes: readonly string[];
  readonly schema: z.ZodType<Config>;
  /** Name of the body module; checkpoints of the bare body lack it, and are given it on load. */
  readonly prefix: string;
  /** The output head's tensor, and the embedding it is when tied. */
  readonly tieable: { readonly output: string; readonly input: string };
  /** Targets an adapter takes when none are named (Hugging Face PEFT's table). */
  readonly defaultTargets: readonly string[];
  /** Tensors that checkpoints carry but the forward does not need (buffers). */
  readonly ignored: RegExp;
  sizes(config: Config): LmSizes;
  tied(config: Config): boolean;
  /** Every tensor of a checkpoint of this config, a tied head left out; for training from scratch. */
  weightSpecs(config: Config): WeightSpec[];
  build(config: Config, weights: WeightReader, inputs: LmInputs): LmOutputs;
}
