import { readFileSync } from "node:fs";
import { sha256 } from "@noble/hashes/sha2.js";
import { bytesToHex } from "@noble/hashes/utils.js";
import { expect, test } from "vitest";
import { TunesmithError } from "../../errors/index.js";
import { numpyGenerator } from "./numpy-generator.js";

const fixture = JSON.parse(
  readFileSync(new URL("./numpy-generator.fixture.json", import.meta.url), "utf8"),
) as {
  cases: {
    seed: number;
    u64: string[];
    shuffle: Record<string, number[] | string>;
    choice: Record<string, string>;
    mixed: unknown[];
  }[];
};
const digest = (values: Int32Array) =>
  bytesToHex(sha256(new Uint8Array(values.buffer, values.byteOffset, values.byteLength)));
const range = (n: number) => Int32Array.from({ length: n }, (_, at) => at);

test.each(fixture.cases)("the sequences of numpy.random.default_rng($seed)", ({ seed, ...expected }) => {
  const { u64 } = numpyGenerator(seed);
  expect(expected.u64.map(() => String(u64()))).toEqual(expected.u64);
  for (const [n, values] of Object.entries(expected.shuffle)) {
    const shuffled = numpyGenerator(seed).shuffle(range(Number(n)));
    expect(typeof values === "string" ? digest(shuffled) : [...shuffled], n).toEqual(values);
  }
  for (const [sizes, values] of Object.entries(expected.choice)) {
    const [n, count] = sizes.split(",").map(Number) as [number, number];
    expect(digest(numpyGenerator(seed).choice(n, count)), sizes).toBe(values);
  }
  const random = numpyGenerator(seed);
  expect([[...random.choice(256, 17)], digest(random.shuffle(range(300)))]).toEqual(expected.mixed);
});

test("bad arguments are refused", () => {
  for (const seed of [-1, 1.5, 2 ** 32]) expect(() => numpyGenerator(seed)).toThrow(TunesmithError);
  expect(() => numpyGenerator(0).choice(3, 4)).toThrow(TunesmithError);
  expect(() => numpyGenerator(0).choice(3.5, 1)).toThrow(TunesmithError);
});
