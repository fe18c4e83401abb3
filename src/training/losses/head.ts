import { ops, reach, recompute, type Value } from "../../graph/index.js";
import { noiseOf } from "../../models/index.js";

/** The output head of a language model, to be run a few rows at a time. */
export interface Head {
  /** `[tokens, hidden]`; logits must be a function of it (and of parameters) alone. */
  readonly hidden: Value;
  /** `[tokens, vocab]` as the model builds them; below them dropout masks may stand, with a row per token. */
  readonly logits: Value;
  /** Rows whose logits exist at one time; bounds memory to about `2 * rows * vocab * 4` bytes. */
  readonly chunkRows: number;
}

/** Some rows of a head's input. */
export interface HeadChunk {
  /** `[rows, hidden]`, scheduled after the chunks before it. */
  readonly hidden: Value;
  /** The chunk's part of a value with a row per token. */
  readonly part: (x: Value) => Value;
}

const CHUNK_BYTES = 16 * 1024 * 1024;

/** Rows of logits that keep them under 16 MB, at least 16. */
export const rowsPerChunk = (tokens: number, vocabSize: number, wanted?: number): number =>
  Math.min(tokens, wanted ?? Math.max(16, Math.floor(CHUNK_BYTES / (4 * vocabSize))));

/** What the head reads besides its input: parameters, and dropout masks. */
export function headInputs({ hidden, logits }: Pick<Head, "hidden" | "logits">) {
  const { values } = reach([logits], new Set([hidden]));
  const inputs = values.filter(({ source }) => source.kind === "input");
  return {
    parameters: inputs.filter((value) => noiseOf(value) === undefined),
    masks: inputs.filter((value) => noiseOf(value) !== undefined),
  };
}

/** Calls `perChunk` for each chunk in order; `previous` are values of a chunk that the next one waits for. */
export function eachChunk(
  { hidden, chunkRows }: Pick<Head, "hidden" | "chunkRows">,
  perChunk: (chunk: HeadChunk) => readonly Value[],
  first: readonly Value[] = [],
): readonly Value[] {
  const total = hidden.shape[0] as number;
  let previous = first;
  for (let start = 0; start < total; start += chunkRows) {
    const end = Math.min(start + chunkRows, total);
    const part = (x: Value) => (end - start === total ? x : ops.slice(x, 0, start, end));
    previous = perChunk({ part, hidden: ops.after(part(hidden), ...previous) });
  }
  return previous;
}

/** The logits of a chunk. */
export function chunkLogits({ hidden, logits }: Head, masks: readonly Value[], chunk: HeadChunk): Value {
  const replace = new Map([
    [hidden, chunk.hidden],
    ...masks.map((mask) => [mask, chunk.part(mask)] as const),
  ]);
  return recompute([logits], replace)[0] as Value;
}

/** A chunk's summed loss, and its gradients for the chunk's rows and each parameter of the head. */
export interface ChunkLoss {
  readonly loss: Value;
  readonly gradients: readonly Value[];
}

/**
 * A sum over chunks whose loss and gradients come out of the same pass over a chunk, so that no `[tokens, vocab]` array
 * ever exists.
 */
export function sumOfChunks(
  head: Head,
  parameters: readonly Value[],
  perChunk: (chunk: HeadChunk) => ChunkLoss,
): Value {
  const losses: Value[] = [];
  const rowGradients: Value[] = [];
  let totals: readonly Value[] | undefined;
  const previous = eachChunk(head, (chunk) => {
    const { loss, gradients } = perChunk(chunk);
    const [row, ...shares] = gradients as [Value, ...Value[]];
    losses.push(loss);
    rowGradients.push(row);
    // Added up chunk by chunk: a trained head's gradient is as large as the head, and must not exist once per chunk.
    totals = totals?.map((total, at) => ops.add(total, shares[at] as Value)) ?? shares;
    return [loss, row, ...totals];
  });
  // The backward starts after the last chunk's loss, so that nothing of the loss stays alive below it.
  const saved = [ops.after(ops.concat(rowGradients, 0), ...previous), ...(totals ?? [])];
  const wrt = [head.hidden, ...parameters];
  return ops.customVjp(losses.reduce(ops.add), wrt, saved, ({ saved: stored }, dy) =>
    stored.map((gradient) => ops.mul(gradient, dy)),
  );
}
