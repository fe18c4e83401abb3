import { sha256 } from "#io";
import { reach } from "../graph/index.js";
import type { Model } from "../models/index.js";
import { bytesOf, isTensorRef, type Tensor, type TensorRef } from "../tensor/index.js";

/** Bytes looked at in each of three places of a tensor. */
const SAMPLE = 64;

/**
 * Tells a base model from another without reading all of it: a hash over the names, types and shapes of its weights, and
 * over bytes from the beginning, the middle and the end of each.
 */
export function baseFingerprint({ weights }: Model): Promise<string> {
  const print = known.get(weights) ?? read(weights);
  known.set(weights, print);
  return print;
}

/** Weights do not change. */
const known = new WeakMap<object, Promise<string>>();

async function read(weights: Model["weights"]): Promise<string> {
  const lines: string[] = [];
  for (const [name, value] of [...weights].sort(([a], [b]) => (a < b ? -1 : 1))) {
    for (const { source } of reach([value]).values) {
      if (source.kind !== "constant") continue;
      const { dtype, shape } = source.data;
      lines.push([name, dtype, shape.join("x"), await sampled(source.data)].join(" "));
    }
  }
  return (await sha256([new TextEncoder().encode(lines.join("\n"))])).slice(0, 16);
}

async function sampled(data: Tensor | TensorRef): Promise<string> {
  const size = isTensorRef(data) ? data.byteLength : bytesOf(data).byteLength;
  const length = Math.min(SAMPLE, size);
  const places = new Set([0, Math.floor((size - length) / 2), size - length]);
  const parts: Uint8Array[] = [];
  for (const at of places) {
    parts.push(
      isTensorRef(data)
        ? (await data.source.read(data.offset + at, length)).slice()
        : bytesOf(data).subarray(at, at + length),
    );
  }
  return sha256(parts);
}
