import { constant, ops, type Value } from "../graph/index.js";
import { tensor } from "../tensor/index.js";

/** Steps up before the asymptotic series, whose error is then below float32's. */
const STEPS = 8;

/** x + 0, x + 1, ... `[n, steps]` of `x` `[n]`, all positive. */
const rising = (x: Value): Value =>
  ops.add(
    ops.unsqueeze(x, 1),
    constant(
      tensor(
        "float32",
        [1, STEPS],
        Float32Array.from({ length: STEPS }, (_, k) => k),
      ),
    ),
  );

/** Σ cₖ·y^(−2k), by Horner's rule. */
function series(y: Value, coefficients: readonly number[]): Value {
  const inverse = ops.div(1, ops.square(y));
  const [last, ...others] = coefficients.toReversed() as [number, number, ...number[]];
  return others.reduce<Value | number>((sum, each) => ops.add(ops.mul(sum, inverse), each), last) as Value;
}

/** ln Γ of positive numbers `[n]`, which ONNX does not have; within 2e-6 of max(1, |ln Γ|) for x from 0.01 to 1000. */
export function logGamma(x: Value): Value {
  const y = ops.add(x, STEPS);
  const main = ops.sub(ops.mul(ops.sub(y, 0.5), ops.log(y)), y);
  const rest = ops.div(series(y, [1 / 12, -1 / 360, 1 / 1260]), y);
  const above = ops.add(ops.add(main, rest), Math.log(2 * Math.PI) / 2);
  return ops.sub(above, ops.reduceSum(ops.log(rising(x)), [1], false));
}

/** Its derivative ψ of positive numbers `[n]`. */
export function digamma(x: Value): Value {
  const y = ops.add(x, STEPS);
  const above = ops.sub(ops.log(y), ops.div(0.5, y));
  const rest = ops.div(series(y, [1 / 12, -1 / 120, 1 / 252]), ops.square(y));
  return ops.sub(ops.sub(above, rest), ops.reduceSum(ops.div(1, rising(x)), [1], false));
}
