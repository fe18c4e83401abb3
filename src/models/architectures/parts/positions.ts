import { type Dim, ops, type Value } from "../../../graph/index.js";

/** 0, 1, 2, ... along the second axis of `ids`, int64 `[1, length]`; computed where that axis is symbolic. */
export function rowPositions(ids: Value): Value {
  const length = ids.shape[1] as Dim;
  if (typeof length === "number") return ops.unsqueeze(ops.arange(length), 0);
  return ops.sub(ops.cumSum(ops.full([1, length], 1, "int64", [ids]), 1), 1);
}

/** Positions of RoBERTa: those of real tokens count from `padding` + 1, padding stands at `padding`. int64 `[batch, length]`. */
export function positionsAfterPadding(ids: Value, padding: number): Value {
  const real = ops.cast(ops.not(ops.equal(ids, padding)), "int64");
  return ops.add(ops.mul(ops.cumSum(real, 1), real), padding);
}
