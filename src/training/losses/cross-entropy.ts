import { vjp } from "../../autodiff/index.js";
import { type Node, ops, type Value } from "../../graph/index.js";
import { chunkLogits, eachChunk, type Head, type HeadChunk, headInputs, sumOfChunks } from "./head.js";

export interface CrossEntropyOptions extends Head {
  /** int64 `[tokens]`; negative labels are ignored. */
  readonly labels: Value;
  /** float32 `[tokens]`, what each token's loss counts; 0 for ignored ones. */
  readonly weights: Value;
}

/** Smallest probability taken into the logarithm: below it float32 has no exponent left. */
const FLOOR = 1e-37;

interface Rows {
  /** int64 `[rows, 1]`, ignored ones 0. */
  readonly labels: Value;
  /** float32 `[rows, 1]`. */
  readonly weights: Value;
}

/** Labels and weights of a chunk as columns. */
const rowsOf = ({ part }: HeadChunk, { labels, weights }: CrossEntropyOptions): Rows => ({
  labels: ops.unsqueeze(part(ops.max(labels, 0)), 1),
  weights: ops.unsqueeze(part(weights), 1),
});

/**
 * Weighted sum of next-token cross-entropies, with logits computed a few rows at a time: loss and the gradient of the
 * hidden states come out of the same pass over a chunk, so that no `[tokens, vocab]` array ever exists. Each chunk is
 * scheduled after the one before it.
 */
export function crossEntropy(options: CrossEntropyOptions): Value {
  const head = plainHead(options.logits, options.hidden);
  const { parameters, masks } = head ? { parameters: [], masks: [] } : headInputs(options);
  return sumOfChunks(options, parameters, (chunk) => {
    const rows = rowsOf(chunk, options);
    return head ? leanChunk(chunk, rows, head) : generalChunk(chunk, rows, options, parameters, masks);
  });
}

/** The same sum for evaluation: exact for any probability, and no gradient is prepared. */
export function crossEntropyForward(options: CrossEntropyOptions): Value {
  const { masks } = headInputs(options);
  const losses: Value[] = [];
  eachChunk(options, (chunk) => {
    const { labels, weights } = rowsOf(chunk, options);
    const picked = ops.gatherElements(ops.logSoftmax(chunkLogits(options, masks, chunk)), labels, 1);
    const loss = ops.neg(ops.reduceSum(ops.mul(picked, weights), undefined, false));
    losses.push(loss);
    return [loss];
  });
  return losses.reduce(ops.add);
}

/** The head's weight `[vocab, hidden]` when logits are simply hidden · Wᵀ with a frozen W. */
export function plainHead(logits: Value, hidden: Value): Value | undefined {
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
function leanChunk({ hidden }: HeadChunk, { labels, weights }: Rows, head: Value) {
  const probabilities = ops.softmax(ops.gemm(hidden, head, undefined, { transB: true }));
  const loss = negativeLog(probabilities, labels, weights);
  const expected = ops.gemm(probabilities, head);
  const actual = ops.gather(head, ops.squeeze(labels, 1));
  return { loss, gradients: [ops.mul(ops.sub(expected, actual), weights)] };
}

/** Any head: dlogits = w·(P − onehot), then back through the head itself. Dropout masks have a row per token. */
function generalChunk(
  chunk: HeadChunk,
  { labels, weights }: Rows,
  options: CrossEntropyOptions,
  parameters: readonly Value[],
  masks: readonly Value[],
) {
  const logits = chunkLogits(options, masks, chunk);
  const probabilities = ops.softmax(logits);
  const loss = negativeLog(probabilities, labels, weights);
  const gradient = ops.scatterElements(ops.mul(probabilities, weights), labels, ops.neg(weights), 1, "add");
  const wrt = [chunk.hidden, ...parameters];
  const back = vjp([{ output: logits, gradient }], wrt, [chunk.hidden]);
  return { loss, gradients: back.map((value, index) => value ?? ops.zerosLike(wrt[index] as Value)) };
}

function negativeLog(probabilities: Value, labels: Value, weights: Value): Value {
  const picked = ops.max(ops.gatherElements(probabilities, labels, 1), FLOOR);
  return ops.neg(ops.reduceSum(ops.mul(ops.log(picked), weights), undefined, false));
}
