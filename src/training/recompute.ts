import { vjp } from "../autodiff/index.js";
import { TunesmithError } from "../errors/index.js";
import { ops, reach, recompute, type Value } from "../graph/index.js";
import type { LmOutputs, TensorOutputs } from "../models/index.js";

/** A forward pass as far as recomputation is concerned. */
interface Stretch {
  /** What is read of it. */
  readonly values: readonly Value[];
  /** Activations entering each block, and leaving the last. */
  readonly boundaries: readonly Value[];
}

/**
 * The same forward pass, whose backward keeps only what enters each block and what the architecture marked with
 * `ops.keep`, and computes everything between again when it gets there (arXiv 1604.06174). Each clone waits for the
 * gradient that arrives at it: without that edge the runtime would compute it early and keep it.
 *
 * @param count Blocks from the first that are treated so; what the last ones keep is needed again at once. Default: all.
 *
 * Throws `config-invalid` for a model without recognisable blocks.
 */
export function recomputeBlocks<P extends LmOutputs | TensorOutputs>(pass: P, count?: number): P {
  const names = "hidden" in pass ? [] : Object.keys(pass.values);
  const read = "hidden" in pass ? [pass.hidden, pass.logits] : Object.values(pass.values);
  const { values, boundaries } = recomputedStretch({ values: read, boundaries: pass.boundaries }, count);
  if ("hidden" in pass) {
    const [hidden, logits] = values as [Value, Value];
    return { ...pass, hidden, logits, boundaries };
  }
  const named = Object.fromEntries(names.map((name, at) => [name, values[at] as Value]));
  return { ...pass, values: named, boundaries };
}

function recomputedStretch({ values, boundaries }: Stretch, count = Number.POSITIVE_INFINITY): Stretch {
  const last = boundaries[Math.min(count, boundaries.length - 1)];
  const first = boundaries[0];
  if (!first || !last || last === first) {
    throw new TunesmithError("config-invalid", "recomputation needs a model with recognisable blocks", {
      fix: "train without recompute, or with a smaller batch",
    });
  }
  const marked = new Map<Value, Value>();
  for (const kept of keptValues(boundaries, first, last)) {
    const [leaving] = recompute([kept], marked) as [Value];
    marked.set(kept, recomputed(leaving, new Set([first, ...marked.values()])));
  }
  return {
    values: recompute(values, marked),
    boundaries: boundaries.map((value) => marked.get(value) ?? value),
  };
}

/** Values between the first and the last boundary that stay in memory, in order of computation. */
function keptValues(boundaries: readonly Value[], first: Value, last: Value): Value[] {
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
