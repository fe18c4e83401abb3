import { vjp } from "../../autodiff/index.js";
import { type Node, ops, reach, recompute, type Value } from "../../graph/index.js";
import { noiseOf } from "../../models/index.js";

export interface CrossEntropyOptions {
  /** `[tokens, hidden]`; logits must be a function of it (and of parameters) alone. */
  readonly hidden: Value;
  /** `[tokens, vocab]` as the model builds them; below them dropout masks may stand, with a row per token. */
  readonly logits: Value;
  /** int64 `[tokens]`; negative labels are ignored. */
  readonly labels: Value;
  /** float32 `[tokens]`, what each token's loss counts; 0 for ignored ones. */
  readonly weights: Value;
  /** Rows whose logits exist at one time; bounds memory to about `2 * rows * vocab * 4` bytes. */
  readonly chunkRows: number;
}

/** Smallest probability taken into the logarithm: below it float32 has no exponent left. */
const FLOOR = 1e-37;

interface Chunk {
  readonly hidden: Value;
  /** int64 `[rows, 1]`, ignored ones 0. */
  readonly labels: Value;
  /** float32 `[rows, 1]`. */
  readonly weights: Value;
  /** The chunk's part of a value with a row per token. */
  readonly part: (x: Value) => Value;
}

/**
 * Weighted sum of next-token cross-entropies, with logits computed a few rows at a time: loss and the gradient of the
 * hidden states come out of the same pass over a chunk, so that no `[tokens, vocab]` array ever exists. Each chunk is
 * scheduled after the one before it.
 */
export function crossEntropy(options: CrossEntropyOptions): Value {
  const { hidden, logits } = options;
  const head = plainHead(logits, hidden);
  const { values } = reach([logits], new Set([hidden]));
  const inputs = head ? [] : values.filter(({ source }) => source.kind === "input");
  const parameters = inputs.filter((value) => noiseOf(value) === undefined);
  const masks = inputs.filter((value) => noiseOf(value) !== undefined);
  const wrt = [hidden, ...parameters];
  const losses: Value[] = [];
  const rowGradients: Value[] = [];
  let totals: readonly Value[] | undefined;
  let previous: Value[] = [];
  for (const chunk of chunksOf(options)) {
    const rows = { ...chunk, hidden: ops.after(chunk.hidden, ...previous) };
    const { loss, gradients } = head ? leanChunk(rows, head) : generalChunk(rows, options, parameters, masks);
    const [row, ...shares] = gradients as [Value, ...Value[]];
    losses.push(loss);
    rowGradients.push(row);
    // Added up chunk by chunk: a trained head's gradient is as large as the head, and must not exist once per chunk.
    totals = totals?.map((total, at) => ops.add(total, shares[at] as Value)) ?? shares;
    previous = [loss, row, ...totals];
  }
  // The backward starts after the last chunk's loss, so that nothing of the loss stays alive below it.
  const saved = [ops.after(ops.concat(rowGradients, 0), ...previous), ...(totals ?? [])];
  return ops.customVjp(losses.reduce(ops.add), wrt, saved, ({ saved: stored }, dy) =>
    stored.map((gradient) => ops.mul(gradient, dy)),
  );
}

/** The same sum for evaluation: exact for any probability, and no gradient is prepared. */
export function crossEntropyForward(options: CrossEntropyOptions): Value {
  let previous: Value[] = [];
  const losses: Value[] = [];
  for (const chunk of chunksOf(options)) {
    const [logits] = recompute(
      [options.logits],
      new Map([[options.hidden, ops.after(chunk.hidden, ...previous)]]),
    );
    const picked = ops.gatherElements(ops.logSoftmax(logits as Value), chunk.labels, 1);
    const loss = ops.neg(ops.reduceSum(ops.mul(picked, chunk.weights), undefined, false));
    losses.push(loss);
    previous = [loss];
  }
  return losses.reduce(ops.add);
}

function* chunksOf({ hidden, labels, weights, chunkRows }: CrossEntropyOptions): Generator<Chunk> {
  const total = hidden.shape[0] as number;
  const column = (x: Value, start: number, end: number) => ops.unsqueeze(ops.slice(x, 0, start, end), 1);
  const safe = ops.max(labels, 0);
  for (let start = 0; start < total; start += chunkRows) {
    const end = Math.min(start + chunkRows, total);
    const part = (x: Value) => (end - start === total ? x : ops.slice(x, 0, start, end));
    yield {
      part,
      hidden: part(hidden),
      labels: column(safe, start, end),
      weights: column(weights, start, end),
    };
  }
}

/** The head's weight `[vocab, hidden]` when logits are simply hidden · Wᵀ with a frozen W. */
function plainHead(logits: Value, hidden: Value): Value | undefined {
  const node = logits.source.kind === "node" ? logits.source.node : undefined;
  const weight = node?.inputs[1];
  const plain = node?.op === "Gemm" && node.inputs[0] === hidden && !node.inputs[2] && isTransB(node);
  return plain && weight?.source.kind === "constant" ? weight : undefined;
}

const isTransB = (node: Node): boolean => {
  const flag = node.attrs.transB;
  return flag !== undefined && "i" in flag && Number(flag.i) !== 0 && node.attrs.alpha === undefined;
};

/** loss = −Σ w·log p_y; dh = w·(P·W − W_y). No scatter over the vocabulary. */
function leanChunk({ hidden, labels, weights }: Chunk, head: Value) {
  const probabilities = ops.softmax(ops.gemm(hidden, head, undefined, { transB: true }));
  const loss = negativeLog(probabilities, labels, weights);
  const expected = ops.gemm(probabilities, head);
  const actual = ops.gather(head, ops.squeeze(labels, 1));
  return { loss, gradients: [ops.mul(ops.sub(expected, actual), weights)] };
}

/** Any head: dlogits = w·(P − onehot), then back through the head itself. Dropout masks have a row per token. */
function generalChunk(
  { hidden, labels, weights, part }: Chunk,
  options: CrossEntropyOptions,
  parameters: readonly Value[],
  masks: readonly Value[],
) {
  const replace = new Map([[options.hidden, hidden], ...masks.map((mask) => [mask, part(mask)] as const)]);
  const [logits] = recompute([options.logits], replace) as [Value];
  const probabilities = ops.softmax(logits);
  const loss = negativeLog(probabilities, labels, weights);
  const gradient = ops.scatterElements(ops.mul(probabilities, weights), labels, ops.neg(weights), 1, "add");
  const back = vjp([{ output: logits, gradient }], [hidden, ...parameters], [hidden]);
  return {
    loss,
    gradients: back.map((value, index) => value ?? ops.zerosLike([hidden, ...parameters][index] as Value)),
  };
}

function negativeLog(probabilities: Value, labels: Value, weights: Value): Value {
  const picked = ops.max(ops.gatherElements(probabilities, labels, 1), FLOOR);
  return ops.neg(ops.reduceSum(ops.mul(ops.log(picked), weights), undefined, false));
}
