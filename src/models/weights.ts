import { TunesmithError } from "../errors/index.js";
import { constant, type Value } from "../graph/index.js";
import type { Weights } from "./types.js";

/** Named access to weights that remembers what was read, so that a tensor nobody uses is an error, not a surprise. */
export interface WeightReader {
  /** The weight `name`; throws `tensor-not-found` with near names. */
  get(name: string): Value;
  has(name: string): boolean;
  /** Names never read so far. */
  unused(): string[];
}

export function weightReader(weights: Weights, origin: string): WeightReader {
  const used = new Set<string>();
  return {
    get(name) {
      const value = weights.get(name);
      if (!value) {
        throw new TunesmithError("tensor-not-found", `${origin}: tensor '${name}' is missing`, {
          fix: `the file holds ${weights.size} tensors, the nearest: ${nearest(name, weights.keys(), 3).join(", ")}`,
          details: { tensor: name },
        });
      }
      used.add(name);
      return value;
    },
    has: (name) => weights.has(name),
    unused: () => [...weights.keys()].filter((name) => !used.has(name)),
  };
}

/** The `count` names closest to `name` by edit distance; for error messages. */
export function nearest(name: string, names: Iterable<string>, count: number): string[] {
  return [...names]
    .map((candidate) => ({ candidate, distance: editDistance(name, candidate) }))
    .sort((a, b) => a.distance - b.distance)
    .slice(0, count)
    .map(({ candidate }) => candidate);
}

function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const change = (row[j - 1] as number) + (a[i - 1] === b[j - 1] ? 0 : 1);
      next.push(Math.min(change, (row[j] as number) + 1, (next[j - 1] as number) + 1));
    }
    row = next;
  }
  return row[b.length] as number;
}

/** Tensors that were renamed carry their new name, by which adapters and files know them; a shared one keeps one of its names. */
export function calledAsKeys(weights: Weights): Weights {
  const renamed = new Map<Value, Value>();
  for (const [name, value] of weights) {
    const { source } = value;
    const isCalledSo = value.name !== undefined && weights.get(value.name) === value;
    if (source.kind === "constant" && !isCalledSo && !renamed.has(value))
      renamed.set(value, constant(source.data, name));
  }
  return new Map([...weights].map(([name, value]) => [name, renamed.get(value) ?? value]));
}
