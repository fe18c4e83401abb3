import { ops, type Value } from "../../graph/index.js";
import { identityMatrix } from "../algebra.js";
import type { TensorValues } from "../method.js";

/** Under the root, where a distance is zero its gradient is too. */
const SMALLEST = 1e-20;

/** ‖M − I‖ of a Gram matrix; with `kept` 1 or 0 per row, of the rows kept alone. */
function departure(gram: Value, kept: Value | undefined): Value {
  const one = identityMatrix(gram.shape[0] as number);
  const wanted = kept ? ops.mul(one, kept) : one;
  const square = ops.reduceSum(ops.square(ops.sub(gram, wanted)), undefined, false);
  return ops.sqrt(ops.add(square, SMALLEST));
}

/**
 * `weight` times the sum of ‖A·Aᵀ − I‖ and ‖Bᵀ·B − I‖ over modules: what keeps the parts of an update an SVD in shape.
 * Where modules hold `lora_mask` `[r]`, their components without a one there are zero and do not count.
 */
export function orthonormalPenalty(modules: readonly TensorValues[], weight: number): Value | undefined {
  if (weight === 0 || modules.length === 0) return undefined;
  const terms = modules.flatMap(({ lora_A: a, lora_B: b, lora_mask: kept }) => [
    departure(ops.gemm(a as Value, a as Value, undefined, { transB: true }), kept),
    departure(ops.gemm(b as Value, b as Value, undefined, { transA: true }), kept),
  ]);
  return ops.mul(
    terms.reduce((left, right) => ops.add(left, right)),
    weight,
  );
}
