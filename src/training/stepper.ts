import type { LoadedBatch } from "../data/index.js";
import { TunesmithError } from "../errors/index.js";
import { type CausalLm, dropoutOf, parameterFeeds } from "../models/index.js";
import { createSession, type Session, type SessionOptions } from "../runtime/index.js";
import { rng } from "../runtime/random/index.js";
import { type Tensor, tensor } from "../tensor/index.js";
import { prefixGraphs, type StepGraph, trainingGraph } from "./graph.js";
import type { Params } from "./optim/index.js";
import { type PrefixCache, prefixCache } from "./prefix-cache.js";

export interface StepperOptions {
  readonly batchSize: number;
  readonly seed: number;
  readonly session?: SessionOptions;
  /** Rows of logits alive at one time; see `StepOptions`. */
  readonly chunkRows?: number;
  /** Recompute each block's activations in the backward pass instead of keeping them. */
  readonly recompute?: boolean;
  /**
   * Keep activations below the first trained block from epoch 2 on; the most bytes to hold in memory. It needs the same
   * rows every epoch and is not used when nothing below is frozen. Default 0: none.
   */
  readonly prefixCacheBytes?: number;
  /** The most bytes of them to hold in a temporary file, for rows beyond those in memory. Default 0: none. */
  readonly prefixDiskBytes?: number;
}

/** Loss and gradients of one micro-batch. */
export interface StepResult {
  readonly loss: number;
  readonly gradients: Params;
}

/** Runs training graphs, one compiled session per row length. */
export interface Stepper {
  /**
   * `targets` is the number of trained tokens of the whole optimiser step, so that micro-batches add up to the mean over
   * all its tokens. `stream` makes the random numbers of this micro-batch its own.
   */
  run(batch: LoadedBatch, targets: number, stream: readonly number[]): Promise<StepResult>;
  readonly cache: PrefixCache | undefined;
  close(): Promise<void>;
}

interface Compiled {
  readonly step: StepGraph;
  readonly session: Session;
  readonly prefix?: Session;
}

/**
 * A stepper for a model: graphs are differentiated and compiled when a row length first appears. Close it after use.
 *
 * Throws, at the first run of a length, `zero-update` (nothing to train, or a parameter that the loss does not depend on) and
 * `op-not-differentiable`.
 */
export function createStepper(model: CausalLm, options: StepperOptions): Stepper {
  const compiled = new Map<number, Promise<Compiled>>();
  const { prefixCacheBytes: memory = 0, prefixDiskBytes: disk = 0 } = options;
  const cache = memory > 0 || disk > 0 ? prefixCache({ memory, disk }) : undefined;
  const compile = async (length: number): Promise<Compiled> => {
    const { batchSize: batch, chunkRows, recompute } = options;
    const shape = { batch, length, ...(chunkRows ? { chunkRows } : {}), recompute: recompute ?? false };
    const parts = cache && prefixGraphs(model, shape);
    const step = parts?.suffix ?? trainingGraph(model, shape);
    const session = await createSession(step.graph, options.session);
    if (!parts) return { step, session };
    try {
      return { step, session, prefix: await createSession(parts.prefix, options.session) };
    } catch (error) {
      await session.release();
      throw error;
    }
  };
  const forLength = (length: number) => {
    const known = compiled.get(length) ?? compile(length);
    compiled.set(length, known);
    return known;
  };
  return {
    cache,
    async run(batch, targets, stream) {
      const { step, session, prefix } = await forLength(batch.length);
      const feeds: Record<string, Tensor> = {
        ...batchFeeds(batch, targets),
        ...parameterFeeds(step.graph, model.parameters),
      };
      if (prefix && cache) feeds.prefix = await cache.rows(batch, (wanted) => prefix.run(wanted));
      addMasks(step, feeds, options.seed, stream);
      const results = await session.run(onlyRead(step, feeds));
      const gradients = new Map(
        step.trained.map(({ name }) => [name, results[`grad/${name}`]?.data as Float32Array] as const),
      );
      return { loss: scalarOf(results.loss), gradients };
    },
    async close() {
      const ready = await settled(compiled);
      compiled.clear();
      await closeAll([
        ...ready.flatMap(({ session, prefix }) => [session.release, prefix?.release]),
        cache?.close,
      ]);
    },
  };
}

/** What was compiled; a failure was the business of the run that asked for it. */
export async function settled<T>(compiled: ReadonlyMap<number, Promise<T>>): Promise<T[]> {
  const outcomes = await Promise.allSettled(compiled.values());
  return outcomes.flatMap((outcome) => (outcome.status === "fulfilled" ? [outcome.value] : []));
}

/** Closes everything, then throws the first failure: one that cannot be closed keeps no other open. */
export async function closeAll(closers: readonly ((() => Promise<void>) | undefined)[]): Promise<void> {
  const outcomes = await Promise.allSettled(closers.map((close) => close?.()));
  const failed = outcomes.find((outcome) => outcome.status === "rejected");
  if (failed) throw failed.reason;
}

/** The value of a scalar result; NaN when it is absent. */
export const scalarOf = (tensor: Tensor | undefined): number => Number(tensor?.data[0] ?? Number.NaN);

/** A batch under the names of `stepInputs`, its loss weights divided by the step's number of trained tokens. */
export function batchFeeds(batch: LoadedBatch, targets: number): Record<string, Tensor> {
  if (targets <= 0) {
    throw new TunesmithError("data-invalid", "a step has no trained token", {
      fix: "check the loss masks: every example's completion may have been cut off; raise maxLength",
    });
  }
  const counted = (batch.lossWeights.data as Float32Array).map((weight) => weight / targets);
  return {
    ids: batch.inputIds,
    positions: batch.positionIds,
    segments: batch.segmentIds,
    labels: batch.labels,
    weights: tensor("float32", batch.lossWeights.shape, counted),
  };
}

function addMasks(
  step: StepGraph,
  feeds: Record<string, Tensor>,
  seed: number,
  stream: readonly number[],
): void {
  for (const value of step.graph.inputs) {
    const probability = dropoutOf(value);
    if (probability === undefined) continue;
    const shape = value.shape as readonly number[];
    const size = shape.reduce((a, b) => a * b, 1);
    const random = rng(seed, "dropout", ...stream, String(value.name));
    const draws = random.fillUniform(new Float32Array(size));
    feeds[String(value.name)] = tensor(
      "bool",
      shape,
      Uint8Array.from(draws, (draw) => (draw >= probability ? 1 : 0)),
    );
  }
}

/** Leaves out batch parts the graph does not read (a suffix may not need ids). */
export const onlyRead = (step: StepGraph, feeds: Record<string, Tensor>): Record<string, Tensor> =>
  Object.fromEntries(
    step.graph.inputs.flatMap(({ name }) => {
      const feed = feeds[String(name)];
      return feed ? [[String(name), feed] as const] : [];
    }),
  );
