import type { Dim, Quantization, QuantizedMatrix, Value } from "../graph/index.js";
import type { Dtype, Tensor } from "../tensor/index.js";
import type { Tokenizer } from "./tokenizer/index.js";

/** Frozen weights by the name they carry in files. One `Value` each, shared by every graph built over the model. */
export type Weights = ReadonlyMap<string, Value>;

/**
 * A value that is fed at every run instead of being part of the model: an adapter's tensor, an unfrozen weight, a switch.
 * Optimisers write into `tensor.data` in place; every graph over the model reads it through its input `value`.
 */
export interface Parameter {
  /** Unique in the model: `adapter/module.path.tensor`. It is the graph input's name. */
  readonly name: string;
  readonly value: Value;
  /** float32 */
  readonly tensor: Tensor;
  readonly trainable: boolean;
  /** Whether many batches leave it without gradient, and that is no mistake: rows of rare tokens. */
  readonly rare?: boolean;
  /**
   * Of experts and gates, which a batch reaches only as routing leads there: what they belong to. Some of it may be without
   * gradient for long, all of it may not.
   */
  readonly routed?: string;
}
export type Parameters = ReadonlyMap<string, Parameter>;

/** Sizes every causal language model has. */
export interface LmSizes {
  readonly vocabSize: number;
  readonly hiddenSize: number;
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  /** Longest position the model was made for. */
  readonly maxPositions: number;
}

/** Keys and values of one layer, `[batch, kvHeads, length, headDim]`. */
export interface KeyValue {
  readonly key: Value;
  readonly value: Value;
}

/**
 * What a forward pass reads. `ids` and `positions` are int64 `[batch, length]`. `segments` are int32 numbers that say
 * which tokens may see one another: a token attends to earlier positions of its own segment only, so documents packed
 * into one row do not leak; numbers above 0 are text, others padding. With `past`, keys of `pastPositions`/`pastSegments` come first.
 */
export interface LmInputs {
  readonly ids: Value;
  readonly positions: Value;
  readonly segments: Value;
  /** Ids of the tokens that a text begins with, −1 for those generated since, int64 `[batch, length]`. Default: `ids`. */
  readonly prompt?: Value;
  /** Lay the graph for training: dropout masks become inputs. Default false. */
  readonly training?: boolean;
  readonly past?: {
    readonly layers: readonly KeyValue[];
    /** `[batch, past]`, int64 and int32. */
    readonly positions: Value;
    readonly segments: Value;
    /** As `prompt` of the new tokens, `[batch, past]`. Absent where the cached tokens are not known: in files. */
    readonly prompt?: Value;
    /** Every column is in use, or padding on the left: enough for files that count columns. Default false. */
    readonly exact?: boolean;
  };
}

/** What a forward pass gives. Token axes are flattened: `tokens = batch * length`. */
export interface LmOutputs {
  /** `[tokens, hidden]`, after the last norm. */
  readonly hidden: Value;
  /** `[tokens, vocab]`, a function of `hidden` alone. */
  readonly logits: Value;
  /** `[tokens, hidden]` entering each block, and leaving the last: where a run may start, or be recomputed. */
  readonly boundaries: readonly Value[];
  /** Keys and values of each layer including the past. */
  readonly present: readonly KeyValue[];
  /** Scalar that methods add to the loss while training. */
  readonly penalty?: Value;
  /** Sums over rows that methods keep, by name; see `talliesOf`. */
  readonly tallies?: Readonly<Record<string, Value>>;
}

/** What a model is for. It chooses loss, metrics and batches; `custom` models are trained with a loss of the user's. */
export type Task =
  | "causal-lm"
  | "masked-lm"
  | "seq2seq"
  | "sequence-classification"
  | "token-classification"
  | "question-answering"
  | "image-classification"
  | "audio-classification"
  | "regression"
  | "forecasting"
  | "embedding"
  | "custom";

/** Where a training run stands, as its hooks see it. The arrays are live. */
export interface StepInfo {
  /** The update that is about to be made, or was just made, from 1. */
  readonly step: number;
  readonly steps: number;
  /** The optimiser's at this update, its schedule applied. */
  readonly learningRate: number;
  readonly params: ReadonlyMap<string, Float32Array>;
  /** Clears the moments that the optimiser keeps of a parameter, or of some of its entries. Absent outside a run of `fit`. */
  readonly forget?: (name: string, entries?: Iterable<number>) => void;
}

/** What a method does besides being a graph: schedules, masks, ranks, selections that follow the training. */
export interface TrainingHooks {
  /** Before the gradients of an update are computed. */
  beforeUpdate?(at: StepInfo): void | Promise<void>;
  /** Frozen weights whose full gradients this update must bring, by name in the file. */
  wantedWeights?(at: StepInfo): readonly string[];
  /** After each micro-batch: its gradients (added up over the update's micro-batches by the loop), and the wanted weights'. */
  afterBackward?(
    at: StepInfo,
    gradients: ReadonlyMap<string, Float32Array>,
    weights: ReadonlyMap<string, Float32Array>,
  ): void | Promise<void>;
  /** Whether a parameter takes part in this update. Default: all do. */
  isTrained?(name: string, at: StepInfo): boolean;
  /** After the parameters were updated; may change them, for instance to keep a constraint. */
  afterUpdate?(at: StepInfo): void | Promise<void>;
  /** What a checkpoint keeps, as plain JSON data, besides parameters. */
  state?(): unknown;
  restore?(state: unknown): void;
}

/** What became of the linear maps of a model that was quantised. */
export interface ModelQuantization {
  readonly settings: Quantization;
  /** The model of floats that it was made from: adapters are for that one, and fit both. */
  readonly base: AnyModel;
  /** By module path, in execution order. */
  readonly sites: ReadonlyMap<string, QuantizedMatrix<Value>>;
  /** Linear maps that stayed floats, and why. */
  readonly left: readonly { readonly path: string; readonly reason: string }[];
  /**
   * Identity of numbers that quantising the floats again would not give (LQ-LoRA's, which depend on its factors): adapters
   * bring them along.
   */
  readonly own?: string;
  /** Bytes of the weights of `sites`, as floats and as they are kept. */
  readonly floatBytes: number;
  readonly keptBytes: number;
}

/**
 * What all models have in common. `build` lays the forward graph over given inputs; wrapping `build` is how adapters,
 * merges and edits change a model, so all of them compose.
 */
export interface ModelBase<T extends Task, Inputs, Outputs> {
  readonly task: T;
  readonly architecture: string;
  readonly weights: Weights;
  /** Everything the model's graphs read besides weights and inputs; empty for a plain base. */
  readonly parameters: Parameters;
  /** The configuration as it stood in the model's folder; written back on save. */
  readonly config: Readonly<Record<string, unknown>>;
  /** Default adapter targets of this architecture. */
  readonly defaultTargets: readonly string[];
  readonly tokenizer: Tokenizer | undefined;
  /** Where it was loaded from, for receipts and for saving tokenizer files alongside. */
  readonly origin: string | undefined;
  build(inputs: Inputs): Outputs;
  /** How `quantizeModel` keeps its weights; absent for a model of floats, and for a file that was quantised elsewhere. */
  readonly quantization?: ModelQuantization | undefined;
  /** What the methods on it do between the steps of a run; called once per run, for fresh state. */
  readonly trainingHooks?: (() => TrainingHooks) | undefined;
}

/** A causal language model. */
export interface CausalLm extends ModelBase<"causal-lm", LmInputs, LmOutputs> {
  readonly sizes: LmSizes;
  /** Whether documents may share a row, kept apart by `segments`. Default true; false for files with a padding mask only. */
  readonly packable?: boolean;
}

/** One input of a tensor model, under the name its community uses: `input_ids`, `pixel_values`. */
export interface InputSpec {
  readonly name: string;
  readonly dtype: Dtype;
  /** Numbers are fixed, names stand for axes that vary: `["batch", 3, 224, 224]`. */
  readonly shape: readonly (number | string)[];
  /** Integers are below this: rows of the embedding they look up. */
  readonly below?: number;
  /** What it holds when it is not given; without a default it must be. */
  readonly fill?: number;
}

/** Where the decoder of a sequence-to-sequence model continues: places of its new tokens, and keys and values before them. */
export type DecodingInputs = Required<Pick<LmInputs, "positions" | "segments" | "past">>;

/** What a tensor model's forward pass reads, by input name. */
export interface TensorInputs {
  readonly values: Readonly<Record<string, Value>>;
  /** Default: `decoder_input_ids` is the whole row. */
  readonly decoding?: DecodingInputs;
  /** Lay the graph for training: dropout masks become inputs. Default false. */
  readonly training?: boolean;
}

/** What it gives, by name: `logits`, `last_hidden_state`, `image_embeds`. */
export interface TensorOutputs {
  readonly values: Readonly<Record<string, Value>>;
  /** Activations entering each block, and leaving the last: where a run may start, or be recomputed. May be empty. */
  readonly boundaries: readonly Value[];
  /** Of a decoder: its own keys and values including the past, and those it reads from the encoder's output. */
  readonly decoding?: {
    readonly present: readonly KeyValue[];
    readonly cross: readonly KeyValue[];
    /** The encoder's output as rows `[batch * length, width]`, which `cross` is made of. */
    readonly encoded: Value;
  };
  /** Scalar that methods add to the loss while training. */
  readonly penalty?: Value;
  /** Sums over rows that methods keep, by name; see `talliesOf`. */
  readonly tallies?: Readonly<Record<string, Value>>;
}

/** Sizes of the decoder of a sequence-to-sequence model. */
export interface DecoderSizes {
  readonly vocabSize: number;
  readonly layers: number;
  readonly kvHeads: number;
  readonly headDim: number;
  /** Longest position; infinity where there is none. */
  readonly maxPositions: number;
  /** The token that a row begins with. */
  readonly startId: number;
}

/** Module names where the reference has others in memory than in its files: what adapter folders are written with. */
export interface Spelling {
  /** A name of the file as the reference has it in memory. */
  memory(name: string): string;
  /** And back; a name of the file stays as it is. */
  file(name: string): string;
}

/** Any model that is not a causal language model: named tensors in, named tensors out. */
export interface TensorModel extends ModelBase<Exclude<Task, "causal-lm">, TensorInputs, TensorOutputs> {
  readonly inputs: readonly InputSpec[];
  /** Sizes of the named axes in a small pass: what the model is looked at with. */
  readonly probeAxes: Readonly<Record<string, number>>;
  /** Names of classes, where the model has any. */
  readonly labels?: readonly string[];
  /** Default: names in memory are those of the file. */
  readonly spelling?: Spelling;
  /** Of sequence-to-sequence models. */
  readonly decoder?: DecoderSizes;
}

export type Model = CausalLm | TensorModel;
export type Inputs = LmInputs | TensorInputs;
export type Outputs = LmOutputs | TensorOutputs;
export type InputsOf<M extends Model> = M extends CausalLm ? LmInputs : TensorInputs;
export type OutputsOf<M extends Model> = M extends CausalLm ? LmOutputs : TensorOutputs;

/** A model whose inputs and outputs are only handed on: what adapters and merges wrap, whatever the task. */
export interface AnyModel extends ModelBase<Task, Inputs, Outputs> {}

/** Batch and length of the inputs; numbers for training, names for export. */
export const tokenAxes = (inputs: LmInputs): { batch: Dim; length: Dim } => ({
  batch: inputs.ids.shape[0] as Dim,
  length: inputs.ids.shape[1] as Dim,
});
