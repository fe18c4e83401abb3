import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { type ByteSource, openBytes } from "#io";
import { TunesmithError } from "../../errors/index.js";
import { openSafetensors } from "./reader.js";

const original = new Uint8Array(
  readFileSync(new URL("../../../fixtures/safetensors/reference.safetensors", import.meta.url)),
);
const headerEnd = 8 + Number(new DataView(original.buffer, original.byteOffset).getBigUint64(0, true));

/** Mulberry32: small, seeded, the same everywhere. */
function random(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) % below;
  };
}

type Random = (below: number) => number;

function withHeader(edit: (text: string) => string): Uint8Array {
  const text = new TextEncoder().encode(edit(new TextDecoder().decode(original.subarray(8, headerEnd))));
  const data = original.subarray(headerEnd);
  const bytes = new Uint8Array(8 + text.length + data.length);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(text.length), true);
  bytes.set(text, 8);
  bytes.set(data, 8 + text.length);
  return bytes;
}

const absurd = [
  "-1",
  "1e308",
  "9007199254740992",
  "18446744073709551615",
  "0.5",
  "null",
  '"4"',
  "[]",
  "{}",
  "-0",
  "0",
  "4294967296",
  "true",
];
const tokens = [
  "{",
  "}",
  "[",
  "]",
  ",",
  ":",
  '"',
  "\\",
  "\\u0000",
  '"__proto__"',
  '"constructor"',
  "__metadata__",
  "F8_E4M3",
  "F64",
];

const mutations: ((rng: Random) => Uint8Array)[] = [
  // Bits anywhere, in the header, and in its length.
  (rng) => flip(rng, original.length),
  (rng) => flip(rng, headerEnd),
  (rng) => flip(rng, 8),
  (rng) => original.slice(0, rng(original.length)),
  (rng) => concat(original, new Uint8Array(1 + rng(64)).fill(rng(256))),
  (rng) => {
    const at = rng(original.length);
    return concat(original.subarray(0, at), original.subarray(rng(original.length)));
  },
  // Well-formed JSON that lies: one number replaced, or two entries' numbers exchanged.
  (rng) => replaceNumber(rng, absurd[rng(absurd.length)] as string),
  (rng) => replaceNumber(rng, String(rng(2000))),
  (rng) => withHeader((text) => insert(text, rng(text.length), tokens[rng(tokens.length)] as string)),
  (rng) =>
    withHeader((text) => {
      const from = rng(text.length);
      return text.slice(0, from) + text.slice(from + 1 + rng(20));
    }),
  (rng) =>
    withHeader((text) => {
      const from = rng(text.length);
      return insert(text, rng(text.length), text.slice(from, from + rng(80)));
    }),
];

function flip(rng: Random, below: number): Uint8Array {
  const bytes = original.slice();
  for (let n = 1 + rng(3); n > 0; n--) {
    const at = rng(below);
    bytes[at] = (bytes[at] as number) ^ (1 << rng(8));
  }
  return bytes;
}

function replaceNumber(rng: Random, by: string): Uint8Array {
  return withHeader((text) => {
    const found = [...text.matchAll(/\d+(?=[,\]])/g)];
    const match = found[rng(found.length)] as RegExpExecArray;
    return text.slice(0, match.index) + by + text.slice(match.index + match[0].length);
  });
}

const insert = (text: string, at: number, part: string) => text.slice(0, at) + part + text.slice(at);

function concat(a: Uint8Array, b: Uint8Array): Uint8Array {
  const out = new Uint8Array(a.length + b.length);
  out.set(a);
  out.set(b, a.length);
  return out;
}

/** Records the largest read, which is what a reader allocates for a file on disk. */
function watched(bytes: Uint8Array): { source: ByteSource; largest: () => number } {
  const inner = openBytes(bytes, "fuzzed.safetensors");
  let largest = 0;
  const read = (offset: number, length: number) => {
    largest = Math.max(largest, length);
    return inner.read(offset, length);
  };
  return { source: { ...inner, read }, largest: () => largest };
}

test("mutated files are read or refused with a typed error, within the size of the file", async () => {
  const rng = random(20);
  let refused = 0;
  let accepted = 0;
  for (let round = 0; round < 5500; round++) {
    const bytes = (mutations[round % mutations.length] as (rng: Random) => Uint8Array)(rng);
    const { source, largest } = watched(bytes);
    try {
      const file = await openSafetensors(source);
      let total = 0;
      for (const [name, ref] of file.entries) {
        total += ref.byteLength;
        expect((await file.read(name)).shape).toEqual(ref.shape);
      }
      expect(total).toBeLessThan(bytes.length);
      accepted++;
    } catch (error) {
      if (!(error instanceof TunesmithError))
        throw new Error(`round ${round}: ${String(error)}`, { cause: error });
      expect(["file-corrupt", "dtype-unsupported"]).toContain(error.code);
      expect(error.message.length).toBeLessThan(1000);
      refused++;
    }
    expect(largest()).toBeLessThanOrEqual(bytes.length);
  }
  // Both ends must really have been exercised: flips in the data leave a valid file, most others do not.
  expect(accepted).toBeGreaterThan(200);
  expect(refused).toBeGreaterThan(3000);
});
