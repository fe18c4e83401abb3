import { vjp } from "../../autodiff/index.js";
import { ops, type Value } from "../../graph/index.js";
import { plainHead } from "./cross-entropy.js";
import { chunkLogits, eachChunk, type Head, headInputs } from "./head.js";

export interface LogProbOptions extends Head {
  /** int64 `[tokens]`; where negative, the result is that of token 0, to be weighted with 0. */
  readonly labels: Value;
}

/**
 * Log-probability of each token's label, `[tokens]`, with logits computed a few rows at a time in both directions. What the
 * loss makes of them may be any function: preferences, rewards, ratios.
 *
 * With a frozen head the derivative by the hidden states is kept from the forward pass (a row of the hidden width per
 * token); with a trained one the backward computes the logits again.
 */
export function labelLogProbs(options: LogProbOptions): Value {
  const { parameters, masks } = headInputs(options);
  return parameters.length === 0 ? frozenHead(options, masks) : trainedHead(options, parameters, masks);
}

const columnOf = (labels: Value) => ops.unsqueeze(ops.max(labels, 0), 1);
const joined = (columns: readonly Value[]) => ops.squeeze(ops.concat(columns, 0), 1);

/** onehot − P: what a label's log-probability changes by with each logit. */
const slope = (logs: Value, labels: Value): Value =>
  ops.scatterElements(
    ops.neg(ops.exp(logs)),
    labels,
    ops.add(ops.mul(ops.cast(labels, "float32"), 0), 1),
    1,
    "add",
  );

function frozenHead(options: LogProbOptions, masks: readonly Value[]): Value {
  const weight = plainHead(options.logits, options.hidden);
  const picked: Value[] = [];
  const slopes: Value[] = [];
  eachChunk(options, (chunk) => {
    const labels = columnOf(chunk.part(options.labels));
    const logits = chunkLogits(options, masks, chunk);
    const logs = ops.logSoftmax(logits);
    const log = ops.gatherElements(logs, labels, 1);
    const back = weight
      ? ops.sub(ops.gather(weight, ops.squeeze(labels, 1)), ops.gemm(ops.exp(logs), weight))
      : vjp([{ output: logits, gradient: slope(logs, labels) }], [chunk.hidden], [chunk.hidden])[0];
    picked.push(log);
    slopes.push(back ?? ops.zerosLike(chunk.hidden));
    return [log, slopes.at(-1) as Value];
  });
  return ops.customVjp(joined(picked), [options.hidden], [ops.concat(slopes, 0)], ({ saved: [kept] }, dy) => [
    ops.mul(kept as Value, ops.unsqueeze(dy, 1)),
  ]);
}

function trainedHead(options: LogProbOptions, parameters: readonly Value[], masks: readonly Value[]): Value {
  const { hidden, logits, labels, chunkRows } = options;
  const picked: Value[] = [];
  eachChunk(options, (chunk) => {
    const logs = ops.logSoftmax(chunkLogits(options, masks, chunk));
    picked.push(ops.gatherElements(logs, columnOf(chunk.part(labels)), 1));
    return [picked.at(-1) as Value];
  });
  const saved = [logits, labels, ...masks];
  return ops.customVjp(joined(picked), [hidden, ...parameters], saved, (given, dy) => {
    const [entering, ...trained] = given.wrt as [Value, ...Value[]];
    const [scores, targets, ...noise] = given.saved as [Value, Value, ...Value[]];
    const head = { hidden: entering, logits: scores, chunkRows };
    const rows: Value[] = [];
    let totals: readonly Value[] | undefined;
    eachChunk(
      head,
      (chunk) => {
        const found = chunkLogits(head, noise, chunk);
        const each = slope(ops.logSoftmax(found), columnOf(chunk.part(targets)));
        const gradient = ops.mul(each, ops.unsqueeze(chunk.part(dy), 1));
        const wrt = [chunk.hidden, ...trained];
        const [row, ...shares] = vjp([{ output: found, gradient }], wrt, [chunk.hidden]).map(
          (value, at) => value ?? ops.zerosLike(wrt[at] as Value),
        ) as [Value, ...Value[]];
        rows.push(row);
        totals = totals?.map((total, at) => ops.add(total, shares[at] as Value)) ?? shares;
        return [row, ...totals];
      },
      [dy],
    );
    return [ops.concat(rows, 0), ...(totals ?? [])];
  });
}
