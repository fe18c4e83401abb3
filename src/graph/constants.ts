import type { Value } from "./types.js";

/** Elements of a constant held in memory (any numeric dtype but the half types) of at most `limit` elements. */
export function constantNumbers(value: Value | undefined, limit = 4096): number[] | undefined {
  if (value?.source.kind !== "constant" || !("data" in value.source.data)) return undefined;
  const { dtype, data } = value.source.data;
  if (data.length > limit || dtype === "string" || dtype === "float16" || dtype === "bfloat16")
    return undefined;
  return Array.from(data as ArrayLike<number | bigint>, Number);
}

/** The number that every element of a small constant equals. */
export function constantScalar(value: Value | undefined): number | undefined {
  const numbers = constantNumbers(value);
  return numbers?.every((number) => number === numbers[0]) ? numbers[0] : undefined;
}
