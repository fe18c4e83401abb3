import { vjp } from "../autodiff/index.js";
import { TunesmithError } from "../errors/index.js";
import { ops, reach, recompute, type Value } from "../graph/index.js";
import type { LmOutputs } from "../models/index.js";

/**
 * The same forward pass, whose backward keeps only what enters each block and what the architecture marked with
 * `ops.keep`, and computes everything between again when it gets there (arXiv 1604.06174). Each clone waits for the
 * gradient that arrives at it: without that edge the runtime would compute it early and keep it.
 *
 * @param count Blocks from the first that are treated so; what the last ones keep is needed again at once. Default: all.
 *
 * Throws `config-invalid` for a model without recognisable blocks.
 */
export function recomputeBlocks(outputs: LmOutputs, count = Number.POSITIVE_INFINITY): LmOutputs {
  const last = outputs.boundaries[Math.min(count, outputs.boundaries.length - 1)];
  const first = outputs.boundaries[0];
  if (!first || !last || last === first) {
    throw new TunesmithError("config-invalid", "recomputation needs a model with recognisable blocks", {
      fix: "train without recompute, or with a smaller batch",
    });
  }
  const marked = new Map<Value, Value>();
  for (const kept of keptValues(outputs, first, last)) {
    const [leaving] = recompute([kept], marked) as [Value];
    marked.set(kept, recomputed(leaving, new Set([first, ...marked.values()])));
  }
  const [hidden, logits] = recompute([outputs.hidden, outputs.logits], marked) as [Value, Value];
  return {
    ...outputs,
    hidden,
    logits,
    boundaries: outputs.boundaries.map((value) => marked.get(value) ?? value),
  };
}

/** Values between the first and the last boundary that stay in memory, in order of computation. */
function keptValues({ boundaries }: LmOutputs, first: Value, last: Value): Value[] {
  const marks = reach([last], new Set([first])).values.filter(
    ({ source }) => source.kind === "node" && source.node.domain === "tunesmith" && source.node.op === "Keep",
  );
  const inner = boundaries.filter((value) => value !== first && value.id <= last.id);
  return [...new Set([...marks, ...inner])].sort((a, b) => a.id - b.id);
}

/** `leaving` as a function of kept values, whose derivative is taken on a clone made when it is needed. */
function recomputed(leaving: Value, kept: ReadonlySet<Value>): Value {
  const { values } = reach([leaving], kept);
  const entering = values.filter((value) => kept.has(value));
  const parameters = values.filter(({ source, dtype }) => source.kind === "input" && dtype === "float32");
  return ops.customVjp(leaving, [...entering, ...parameters], [], ({ output, wrt }, dy) => {
    const before = wrt.slice(0, entering.length);
    const later = before.map((x) => ops.after(x, dy));
    const [clone] = recompute([output], new Map(before.map((x, at) => [x, later[at] as Value]))) as [Value];
    return vjp([{ output: clone, gradient: dy }], [...later, ...wrt.slice(entering.length)], later);
  });
}
