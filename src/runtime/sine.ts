/**
 * Sine and cosine in additions and products. WGSL promises them to 2^-11 only, and only in [-pi, pi]; rotary embeddings
 * take them of positions, and their error would reach every gradient.
 */
import { op, ops, type Value } from "../graph/index.js";

/** pi in three parts; products of the first with whole numbers below 2^16 are exact. */
const PI = [3.140625, 9.675025939941406e-4, 1.509957990978376e-7] as const;
/** Taylor coefficients of r^3 ... r^11: the rest is below 6e-8 on [-pi/2, pi/2]. */
const ODD = [-1 / 6, 1 / 120, -1 / 5040, 1 / 362_880, -1 / 39_916_800] as const;

const floor = (x: Value): Value => op("Floor", [x]);

/** sin(r) for r in [-pi/2, pi/2]. */
function sineNearZero(r: Value): Value {
  const square = ops.mul(r, r);
  const [last, ...lower] = ODD.toReversed() as [number, ...number[]];
  let sum = ops.mul(square, last);
  for (const coefficient of lower) sum = ops.mul(square, ops.add(sum, coefficient));
  return ops.add(r, ops.mul(r, sum));
}

/** x - half * pi, and the sign of the sine in that half turn: (-1)^turn. */
const rest = (x: Value, half: Value): Value =>
  PI.reduce((left, part) => ops.sub(left, ops.mul(half, part)), x);
const signOf = (turn: Value): Value =>
  ops.sub(1, ops.mul(ops.sub(turn, ops.mul(floor(ops.mul(turn, 0.5)), 2)), 2));

/** To float32 accuracy for |x| below 2e5. */
export function sine(x: Value): Value {
  const turn = floor(ops.add(ops.mul(x, 1 / Math.PI), 0.5));
  return ops.mul(signOf(turn), sineNearZero(rest(x, turn)));
}

/** To float32 accuracy for |x| below 1e5, where the half turns still are exact products. */
export function cosine(x: Value): Value {
  const turn = floor(ops.mul(x, 1 / Math.PI));
  return ops.mul(ops.neg(signOf(turn)), sineNearZero(rest(x, ops.add(turn, 0.5))));
}
