import type { z } from "zod";
import type {
  DecoderSizes,
  InputSpec,
  LmInputs,
  LmOutputs,
  LmSizes,
  Spelling,
  Task,
  TensorInputs,
  TensorModel,
  TensorOutputs,
  Weights,
} from "../types.js";
import type { WeightReader } from "../weights.js";
import type { WeightSpec } from "./parts/weight-specs.js";

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
  /** Name of the list of layers: `model.layers`. */
  readonly layerList: string;
  sizes(config: Config): LmSizes;
  /** What changes in a config when layer k becomes one like layer `sources[k]` was. */
  withLayers(config: Config, sources: readonly number[]): Readonly<Record<string, unknown>>;
  tied(config: Config): boolean;
  /** Every tensor of a checkpoint of this config, a tied head left out; for training from scratch. */
  weightSpecs(config: Config): WeightSpec[];
  build(config: Config, weights: WeightReader, inputs: LmInputs): LmOutputs;
}

/** What a checkpoint of a tensor model turns out to be. */
export interface TensorDescription {
  readonly task: TensorModel["task"];
  readonly inputs: readonly InputSpec[];
  /** Sizes of the named axes in a small pass. */
  readonly probeAxes: Readonly<Record<string, number>>;
  /** Targets an adapter takes when none are named (Hugging Face PEFT's table, where it has the architecture). */
  readonly defaultTargets: readonly string[];
  readonly labels?: readonly string[] | undefined;
  readonly decoder?: DecoderSizes | undefined;
  readonly spelling?: Spelling;
}

/** What is asked of a checkpoint beyond what it holds. */
export interface Wanted {
  /** Default: the task its head is for. A task without a head in the file gets a fresh one. */
  readonly task?: Task | undefined;
  /** Classes, or outputs, of a fresh head. */
  readonly labels?: number | readonly string[] | undefined;
  /** Seed of a fresh head. Default 0. */
  readonly seed?: number | undefined;
  /** One part of a model that has several, by itself: `text` or `vision` of CLIP. */
  readonly part?: string | undefined;
}

/** A part of a model that can stand alone. */
export interface ArchitecturePart {
  /** Its own `config.json`. */
  config(whole: Readonly<Record<string, unknown>>): Readonly<Record<string, unknown>>;
  /** Whether a tensor of the whole belongs to it. */
  keeps(name: string): boolean;
}

/** One file per family of tensor models: how to read its config, what it reads and gives, and how to lay its graph. */
export interface TensorArchitecture<Config extends Record<string, unknown>> {
  /** `model_type` values of config.json it answers to. */
  readonly modelTypes: readonly string[];
  readonly schema: z.ZodType<Config>;
  /** Tensors that checkpoints carry but the forward does not need (buffers, heads of pre-training). */
  readonly ignored: RegExp;
  /** Tasks it has heads for. */
  readonly tasks: readonly Task[];
  /** The task a checkpoint is for, by its tensors and `architectures` of its config. */
  taskOf(config: Config, weights: Weights): TensorModel["task"];
  describe(config: Config, task: TensorModel["task"]): TensorDescription;
  /**
   * Brings names of the many checkpoints to those that `build` reads (a missing or foreign prefix, old spellings). It is
   * asked twice: first to find the checkpoint's task, then for the task that is wanted.
   */
  rename?(name: string, config: Config, weights: Weights, task?: TensorModel["task"]): string;
  /**
   * The config that names and shapes of a state dict without one stand for; undefined when they are another
   * architecture's, or could be of several networks.
   */
  recognise?(weights: Weights): Readonly<Record<string, unknown>> | undefined;
  readonly parts?: Readonly<Record<string, ArchitecturePart>>;
  /** The class in transformers that a saved model of a task is loaded with; without it such models cannot be saved. */
  className?(config: Config, task: TensorModel["task"]): string;
  /** A head that is usually the embedding: its tensor when it is one of its own, and what a config then says. */
  readonly untied?: {
    readonly head: string;
    /** Tensors that are stored a second time then, by their second name. */
    readonly copies?: Readonly<Record<string, string>>;
    config(config: Readonly<Record<string, unknown>>): Readonly<Record<string, unknown>>;
  };
  /** Every tensor for a task, heads included: what a fresh model, or a fresh head, is made of. */
  weightSpecs(config: Config, task: TensorModel["task"]): WeightSpec[];
  build(
    config: Config,
    weights: WeightReader,
    inputs: TensorInputs,
    task: TensorModel["task"],
  ): TensorOutputs;
}
