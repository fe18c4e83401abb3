import type { SessionOptions } from "../runtime/index.js";
import type { Evaluation } from "./evaluate.js";
import type { PlainData } from "./exact-json.js";
import type { FastForwardOptions, FastForwardStage } from "./fast-forward.js";
import type { LossSpikeOptions } from "./loss-spikes.js";
import type { StepShape } from "./objective.js";
import type { Optimizer } from "./optim/index.js";
import type { StepperOptions } from "./stepper.js";

export interface FitOptions extends Omit<StepperOptions, "session" | "recompute"> {
  /**
   * Recompute activations in the backward pass: of all blocks, of so many from the first, or ("auto") of as few as make the
   * run fit `memory`. Default false.
   */
  readonly recompute?: boolean | number | "auto";
  /** What the process may take at its peak, and the largest batch; a run that will not fit ends before its first step. */
  readonly memory?: { readonly budget: number; readonly shape: StepShape } | undefined;
  /** Whether a run ends in which nothing changes. Default true. */
  readonly guardZeroUpdates?: boolean;
  /** Micro-batches per update; the loss is the mean over all their items. Default 1. */
  readonly accumulate?: number;
  readonly steps: number;
  readonly optimizer: Optimizer;
  /** Seed of data order and dropout. Default 0. */
  readonly seed?: number;
  /** Folder for checkpoints and metrics.jsonl, made if need be; nothing is written without one. */
  readonly runDir?: string;
  /** Continue from the newest checkpoint in `runDir` when there is one. Default false. */
  readonly resume?: boolean;
  /** Whatever else identifies the run; a resumed run must have the same. */
  readonly config?: Readonly<Record<string, PlainData>>;
  /** Updates between evaluations (and at the end); 0: only at the end. Default 0. */
  readonly evalEvery?: number;
  /** Updates between checkpoints; "auto": as often as costs at most 2 % of the time; 0: none. Default 0. */
  readonly saveEvery?: number | "auto";
  /** Stop after so many evaluations without improvement, and restore the best; needs `evalEvery`. Default: never. */
  readonly patience?: number;
  /** What `patience` and the best checkpoint go by: `loss`, or the name of a score. Default: the loss, falling. */
  readonly stopOn?: { readonly metric?: string; readonly mode?: "min" | "max"; readonly minDelta?: number };
  /** Further scores of every evaluation, such as those of generated text (`generationScores`). */
  readonly evaluators?: readonly Scorer[];
  /** Leave out updates whose loss jumps, or stop there. Default: neither. */
  readonly lossSpike?: LossSpikeOptions;
  /** Whether updates run as a graph. Default "auto": where that is faster. */
  readonly updateIn?: "auto" | "loop" | "graph";
  /**
   * Fast Forward between updates (see `fastForward`); it looks at the first batches of the validation data. Default: none.
   */
  readonly fastForward?: (FastForwardOptions & { readonly validationBatches?: number }) | undefined;
  /** Default in Node: sessions in a worker, so that the event loop stays free. */
  readonly session?: SessionOptions;
  /** Called after every update and evaluation. */
  readonly onEvent?: (event: TrainEvent) => void;
  readonly signal?: AbortSignal;
}

/** Scores of the weights as they are, by name. */
export type Scorer = (at: { readonly step: number }) => Promise<Readonly<Record<string, number>>>;

export type TrainEvent =
  | {
      readonly type: "step";
      readonly step: number;
      readonly steps: number;
      /** Mean loss per item of this update's batch: cross-entropy per trained token of a language model. */
      readonly loss: number;
      readonly learningRate: number;
      readonly gradNorm: number;
      /** Whether the update was left out because the loss jumped. */
      readonly skipped?: true;
      /** Gradient noise scale in items (arXiv 1812.06162), with accumulated batches. */
      readonly noiseScale?: number;
      /** Tokens, or examples, per second. */
      readonly tokensPerSecond: number;
      readonly remainingSeconds: number | undefined;
    }
  | ({ readonly type: "evaluation"; readonly step: number } & Evaluation)
  | ({ readonly type: "fastForward" } & FastForwardStage)
  | { readonly type: "resumed"; readonly step: number }
  | { readonly type: "checkpoint"; readonly step: number; readonly folder: string };

export interface TrainResult {
  readonly steps: number;
  readonly finalLoss: number;
  /** Last evaluation, of the weights as they are now. */
  readonly evaluation: Evaluation | undefined;
  readonly tokensPerSecond: number;
  /** Set when early stopping ended the run: the step whose weights were restored. */
  readonly restoredStep: number | undefined;
}
