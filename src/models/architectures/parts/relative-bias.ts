import { constant, ops, type Value } from "../../../graph/index.js";
import { tensor } from "../../../tensor/index.js";
import { embeddingLayer } from "./modules.js";
import type { Params } from "./params.js";

export interface RelativeBias {
  readonly heads: number;
  readonly buckets: number;
  readonly maxDistance: number;
  /** Whether keys after the query have buckets of their own. */
  readonly bidirectional: boolean;
  readonly std?: number;
}

/**
 * T5's bias on scores by the distance from query to key, `[batch, heads, length, keys]`, from the table at module path
 * `name`; `queries` and `keys` are int64 positions `[batch, length]` and `[batch, keys]`.
 */
export function relativeBias(
  params: Params,
  name: string,
  queries: Value,
  keys: Value,
  { heads, buckets, maxDistance, bidirectional, std }: RelativeBias,
): Value {
  const distance = ops.sub(ops.unsqueeze(keys, 1), ops.unsqueeze(queries, 2));
  const row = ops.add(ops.clip(distance, -maxDistance, maxDistance), maxDistance);
  const table = Array.from({ length: 2 * maxDistance + 1 }, (_, at) =>
    bucketOf(at - maxDistance, { buckets, maxDistance, bidirectional }),
  );
  const bucket = ops.gather(constant(tensor("int64", [table.length], table)), row);
  return ops.transpose(embeddingLayer(params, name, bucket, [buckets, heads], { std }), [0, 3, 1, 2]);
}

/**
 * The bucket of a distance: small ones have one each, larger ones share them logarithmically, all from `maxDistance` on
 * the last. In float32 as the reference computes it, which decides at the edges.
 */
export function bucketOf(
  distance: number,
  { buckets, maxDistance, bidirectional }: Pick<RelativeBias, "buckets" | "maxDistance" | "bidirectional">,
): number {
  const half = bidirectional ? buckets / 2 : buckets;
  const first = bidirectional && distance > 0 ? half : 0;
  const away = bidirectional ? Math.abs(distance) : Math.max(-distance, 0);
  const exact = Math.floor(half / 2);
  if (away < exact) return first + away;
  const f = Math.fround;
  const share = f(f(Math.log(f(away / exact))) / f(Math.log(maxDistance / exact)));
  return first + Math.min(exact + Math.trunc(f(share * (half - exact))), half - 1);
}
