import { expect } from "vitest";
import { type ByteSource, openBytes, readFile, readText } from "#io";
import { TunesmithError } from "../../../errors/index.js";
import { valuesOf } from "../../cast.js";
import type { Tensor } from "../../tensor.js";

/** What the reference read from a fixture. */
export interface Expected {
  readonly name: string;
  readonly dtype: string;
  readonly shape: number[];
  readonly values: (number | string)[];
}

export const fixturePath = (name: string): string =>
  new URL(`../../../../fixtures/checkpoints/${name}`, import.meta.url).pathname;

export const fixtureBytes = (name: string): Promise<Uint8Array> => readFile(fixturePath(name));

export async function expectedOf(part: string): Promise<Expected[]> {
  const all = JSON.parse(await readText(fixturePath("expected.json"))) as Record<string, Expected[]>;
  return all[part] ?? [];
}

/** Values as the fixtures spell them: infinities and NaN as text. */
export function spelled(tensor: Tensor): (number | string)[] {
  if (tensor.dtype === "string") return [...(tensor.data as readonly string[])];
  return Array.from(valuesOf(tensor), (value) =>
    Number.isFinite(value) ? value : Number.isNaN(value) ? "nan" : value > 0 ? "inf" : "-inf",
  );
}

/** Mulberry32: small, seeded, the same everywhere. */
export function random(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) % below;
  };
}

/** A damaged copy: cut, bits flipped, a run of bytes replaced, or a part moved. */
export function mutated(original: Uint8Array, below: (limit: number) => number): Uint8Array {
  const kind = below(4);
  if (kind === 0) return original.slice(0, below(original.length));
  const bytes = original.slice();
  if (kind === 1) {
    for (let n = 1 + below(4); n > 0; n--) {
      const at = below(bytes.length);
      bytes[at] = (bytes[at] as number) ^ (1 << below(8));
    }
  } else if (kind === 2) {
    const at = below(bytes.length);
    bytes.fill(below(2) === 0 ? 0xff : below(256), at, at + 1 + below(8));
  } else {
    const from = below(bytes.length);
    bytes.copyWithin(below(bytes.length), from, from + below(64));
  }
  return bytes;
}

/** Reads damaged copies of a file; each must work or give a typed error, within reads of the file's own size. */
export async function fuzz(
  name: string,
  rounds: number,
  read: (source: ByteSource) => Promise<void>,
): Promise<{ refused: number; accepted: number }> {
  const original = await fixtureBytes(name);
  const below = random(11);
  const counts = { refused: 0, accepted: 0 };
  for (let round = 0; round < rounds; round++) {
    const source = openBytes(mutated(original, below), name);
    try {
      await read(source);
      counts.accepted++;
    } catch (error) {
      if (!(error instanceof TunesmithError)) throw new Error(`${name}, round ${round}`, { cause: error });
      expect(error.message.length).toBeLessThan(1000);
      expect(error.code).not.toBe("cancelled");
      counts.refused++;
    }
  }
  return counts;
}
