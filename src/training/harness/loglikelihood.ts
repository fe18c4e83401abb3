import { chooseLengths } from "../../data/index.js";
import { TunesmithError } from "../../errors/index.js";
import { type Graph, input, makeGraph, ops, recompute, type Value } from "../../graph/index.js";
import { type CausalLm, inputsOf, parameterFeeds, staticInputs } from "../../models/index.js";
import { createSession, type Session, type SessionOptions } from "../../runtime/index.js";
import { type Tensor, tensor } from "../../tensor/index.js";

/** A text in two parts, as ids: how likely is the second after the first? */
export interface LogLikelihoodRequest {
  /** At least one token. */
  readonly context: readonly number[];
  readonly continuation: readonly number[];
}

export interface LogLikelihood {
  /** Sum over the continuation's tokens, in nats. */
  readonly logLikelihood: number;
  /** Whether each of them is the likeliest token at its place. */
  readonly isGreedy: boolean;
}

export interface LogLikelihoodOptions {
  /** Rows per run; default 8. */
  readonly batchSize?: number;
  /** Most row lengths, each with sessions of its own; default 4. */
  readonly maxShapes?: number;
  readonly session?: SessionOptions;
  readonly signal?: AbortSignal;
  readonly onProgress?: (done: number, total: number) => void;
}

/** Tokens that are predicted in a row of a session; a batch takes the first that all its rows fit. */
const PREDICTED = [4, 16, 64];
const CHUNK_BYTES = 16 * 1024 * 1024;

interface Shape {
  readonly batch: number;
  readonly length: number;
  /** Predicted tokens per row. */
  readonly predicted: number;
}

/** A request as a row: what the model reads, and which of its outputs predict what. */
interface Row {
  readonly at: number;
  readonly ids: readonly number[];
  readonly labels: readonly number[];
}

/**
 * Log-likelihoods of continuations, as evaluation harnesses compute them. Requests are sorted by length and run in batches
 * of few shapes; logits exist for predicted tokens only. What is longer than the model reads loses its beginning.
 *
 * @throws `data-invalid` for an empty part, unknown ids, or a continuation longer than the model reads; `cancelled`.
 * @example
 * ```ts
 * import { loadModel } from "tunesmith/models";
 * import { logLikelihoods } from "tunesmith/training";
 * const model = await loadModel("path/to/model");
 * const [first] = await logLikelihoods(model, [{ context: [0, 17, 4], continuation: [25, 9] }]);
 * console.log(first?.logLikelihood, first?.isGreedy);
 * ```
 */
export async function logLikelihoods(
  model: CausalLm,
  requests: readonly LogLikelihoodRequest[],
  options: LogLikelihoodOptions = {},
): Promise<LogLikelihood[]> {
  const { batchSize = 8, maxShapes = 4, signal, onProgress } = options;
  if (requests.length === 0) return [];
  const longest = model.sizes.maxPositions;
  const rows = requests.map((request, at) => rowOf(model, request, at));
  // Longest first: a run that is too large for the memory fails at once.
  rows.sort((a, b) => b.ids.length - a.ids.length || b.labels.length - a.labels.length || a.at - b.at);
  const lengths = chooseLengths(
    rows.map(({ ids }) => ids.length),
    { maxShapes, multiple: 16 },
  ).map((length) => Math.min(length, longest));
  const results = new Array<LogLikelihood>(rows.length);
  let open: { key: string; graph: Graph; session: Session } | undefined;
  try {
    let done = 0;
    for (const { length, members } of batchesOf(rows, lengths, batchSize)) {
      if (signal?.aborted) throw new TunesmithError("cancelled", "interrupted", { cause: signal.reason });
      const most = Math.max(...members.map(({ labels }) => labels.length));
      const predicted = PREDICTED.find((count) => count >= most && count < length) ?? length;
      const shape = { batch: batchSize, length, predicted };
      const key = `${length} ${predicted}`;
      if (open?.key !== key) {
        await open?.session.release();
        open = undefined;
        const graph = scoringGraph(model, shape);
        open = { key, graph, session: await createSession(graph, options.session) };
      }
      const scored = await score(model, open, shape, members);
      scored.forEach((result, row) => {
        results[members[row]?.at as number] = result;
      });
      done += members.length;
      onProgress?.(done, rows.length);
    }
  } finally {
    await open?.session.release();
  }
  return results;
}

function rowOf(model: CausalLm, { context, continuation }: LogLikelihoodRequest, at: number): Row {
  const { maxPositions, vocabSize } = model.sizes;
  const problem = (what: string, fix: string): never => {
    throw new TunesmithError("data-invalid", `log-likelihood request ${at}: ${what}`, { fix });
  };
  if (context.length === 0) problem("the context is empty", "begin with the token that begins texts");
  if (continuation.length === 0) problem("the continuation has no tokens", "leave out empty answers");
  if (continuation.length > maxPositions) {
    problem(
      `${continuation.length} tokens to predict; the model reads ${maxPositions}`,
      "cut it into windows",
    );
  }
  const whole = [...context, ...continuation].slice(-(maxPositions + 1));
  const bad = whole.find((id) => !Number.isInteger(id) || id < 0 || id >= vocabSize);
  if (bad !== undefined)
    problem(`token ${bad} is not among the ${vocabSize} of the model`, "use its tokenizer");
  return { at, ids: whole.slice(0, -1), labels: continuation };
}

/** Rows, longest first, in batches of one length each. */
function* batchesOf(rows: readonly Row[], lengths: readonly number[], size: number) {
  const lengthOf = (row: Row) => lengths.find((length) => length >= row.ids.length) as number;
  for (let start = 0; start < rows.length; ) {
    const length = lengthOf(rows[start] as Row);
    let end = start + 1;
    while (end < rows.length && end - start < size && lengthOf(rows[end] as Row) === length) end++;
    yield { length, members: rows.slice(start, end) };
    start = end;
  }
}

/** `logProbability` and `greedy`, float32 `[batch · predicted]`, of `labels` after the positions `rows`. */
function scoringGraph(model: CausalLm, { batch, length, predicted }: Shape): Graph {
  const inputs = staticInputs(batch, length);
  const total = batch * predicted;
  const rows = input("rows", "int64", [total]);
  const labels = input("labels", "int64", [total]);
  const outputs = model.build(inputs);
  const hidden = ops.gather(outputs.hidden, rows);
  const chunk = Math.max(16, Math.floor(CHUNK_BYTES / (4 * model.sizes.vocabSize)));
  const parts: { probability: Value; greedy: Value }[] = [];
  for (let start = 0; start < total; start += chunk) {
    const part = (x: Value) => (total <= chunk ? x : ops.slice(x, 0, start, Math.min(start + chunk, total)));
    // One chunk's logits after the other, so that they do not all exist at one time.
    const before = parts.at(-1);
    const own = before ? ops.after(part(hidden), before.probability, before.greedy) : part(hidden);
    const [logits] = recompute([outputs.logits], new Map([[outputs.hidden, own]])) as [Value];
    const wanted = ops.unsqueeze(part(labels), 1);
    const probability = ops.gatherElements(ops.logSoftmax(logits), wanted, 1);
    const greedy = ops.cast(ops.equal(ops.argMax(logits, 1), wanted), "float32");
    parts.push({ probability: ops.squeeze(probability, 1), greedy: ops.squeeze(greedy, 1) });
  }
  const joined = (values: readonly Value[]) =>
    values.length === 1 ? (values[0] as Value) : ops.concat(values, 0);
  const results: [string, Value][] = [
    ["logProbability", joined(parts.map(({ probability }) => probability))],
    ["greedy", joined(parts.map(({ greedy }) => greedy))],
  ];
  return makeGraph("log-likelihood", inputsOf(results.map(([, value]) => value)), results);
}

async function score(
  model: CausalLm,
  { graph, session }: { graph: Graph; session: Session },
  { batch, length, predicted }: Shape,
  members: readonly Row[],
): Promise<LogLikelihood[]> {
  const grid = {
    ids: new Array<number>(batch * length).fill(0),
    segments: new Array<number>(batch * length).fill(0),
  };
  const rows = new Array<number>(batch * predicted).fill(0);
  const labels = new Array<number>(batch * predicted).fill(0);
  members.forEach(({ ids, labels: wanted }, row) => {
    ids.forEach((id, column) => {
      grid.ids[row * length + column] = id;
      grid.segments[row * length + column] = 1;
    });
    wanted.forEach((id, at) => {
      rows[row * predicted + at] = row * length + ids.length - wanted.length + at;
      labels[row * predicted + at] = id;
    });
  });
  const positions = Array.from({ length: batch * length }, (_, at) => at % length);
  const feeds: Record<string, Tensor> = {
    ids: tensor("int64", [batch, length], grid.ids),
    positions: tensor("int64", [batch, length], positions),
    segments: tensor("int32", [batch, length], grid.segments),
    rows: tensor("int64", [batch * predicted], rows),
    labels: tensor("int64", [batch * predicted], labels),
  };
  const read = new Set(session.inputNames);
  const known = Object.fromEntries(Object.entries(feeds).filter(([name]) => read.has(name)));
  const results = await session.run({ ...known, ...parameterFeeds(graph, model.parameters) });
  const probability = results.logProbability?.data as Float32Array;
  const greedy = results.greedy?.data as Float32Array;
  return members.map(({ labels: wanted }, row) => {
    const own = (data: Float32Array) => data.subarray(row * predicted, row * predicted + wanted.length);
    return {
      logLikelihood: own(probability).reduce((sum, value) => sum + value, 0),
      isGreedy: own(greedy).every((value) => value === 1),
    };
  });
}
