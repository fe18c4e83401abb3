import type { Model, Parameter } from "../../models/index.js";
import type { Tensor } from "../../tensor/index.js";
import type { Adapter, AdapterSite } from "../adapter.js";
import type { Adaptation, Method, SiteConfig, SiteShape, TensorNumbers } from "../method.js";
import type { PeftConfig } from "./config-part.js";

/**
 * How PEFT writes the adapters of a method: names of options and of tensors. What all methods share (targets, layers,
 * modules to save, fingerprints) is the framework's business. One file per method in this folder, one line in mappings.ts.
 */
export interface PeftMapping<Config extends SiteConfig = SiteConfig> {
  /** `peft_type` of adapter_config.json. */
  readonly peftType: string;
  readonly method: Method<Config>;
  /** Whether a config of its type is its own, where methods share a type: the first that says so reads it. Default: yes. */
  applies?(config: Readonly<Record<string, unknown>>): boolean;
  /** PEFT's name for training the biases of adapted modules only. Default: PEFT has no such choice. */
  readonly biasOnly?: string;
  /**
   * The method's own options out of adapter_config.json. An option that changes numbers and is not supported must
   * throw `adapter-invalid`: an adapter must not load as something else.
   */
  options(config: PeftConfig, file: string): Readonly<Record<string, unknown>>;
  /** The method's own part of adapter_config.json. */
  config(config: Config, adapter: Adapter): Readonly<Record<string, unknown>>;
  /** Name of a site's tensor below its module's path, `lora_A.weight`; undefined for one that is not written. */
  suffix(key: string, site: SiteShape): string | undefined;
  /** Name of a base tensor that the method is about, below its module's path. Default: its name there. */
  wholeSuffix?(leaf: string): string;
  /** Whole name of a shared tensor, `base_model.vera_A`. Default: none is written. */
  sharedName?(key: string): string | undefined;
  /** Shape in the file, of as many numbers as ours. Default: ours; a convolution's matrices are spread over its taps. */
  fileShape?(key: string, site: SiteShape, shape: readonly number[]): readonly number[];
  /** Numbers of the file as ours, and ours as the file's, where order or meaning differ. */
  fromFile?(data: TensorNumbers, key: string, site: SiteShape, config: Config): TensorNumbers;
  toFile?(data: TensorNumbers, key: string, site: SiteShape, config: Config): TensorNumbers;
  /** Whether a file may hold a tensor of a site that says nothing, by suffix. */
  ignores?(suffix: string): boolean;
  /** Other adapters that belong to it, by the names of their folders below its own. */
  parts?(adapter: Adapter): ReadonlyMap<string, Adapter>;
  /** The adaptation with the parts that its folder holds. */
  completed?(adaptation: Adaptation<Config>, from: FolderParts): Promise<Adaptation<Config>>;
  /**
   * A tensor of ours that files hold in pieces, or only as the shapes of others, put together: `piece` reads one by its
   * suffix, `made` are the site's tensors before it. Undefined: read as it is. Its counterpart is `rewritten`.
   */
  joined?(
    key: string,
    site: SiteShape,
    from: {
      readonly made: Readonly<Record<string, Parameter>>;
      piece(suffix: string): Promise<Tensor>;
      readonly file: string;
    },
    config: Config,
  ): Promise<TensorNumbers | undefined>;
  /** Tensors of a site written in another form than tensor by tensor, by suffix: they replace those of the same name. */
  rewritten?(site: AdapterSite, config: Config): readonly (readonly [string, Tensor])[];
}

/** Where the parts of an adapter's folder are read from. */
export interface FolderParts {
  /** The model they are for. */
  readonly model: Model;
  /**
   * Reads the n-th: the folder that the caller gave for it, or the one of its number below the adapter's own, or the one called
   * `name` below it or beside it, or `otherwise`.
   */
  read(n: number, otherwise: string, name?: string): Promise<Adapter>;
}
