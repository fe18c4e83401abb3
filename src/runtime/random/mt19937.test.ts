import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { TunesmithError } from "../../errors/index.js";
import { mt19937 } from "./mt19937.js";

interface Case {
  seed: number;
  randperm10: number[];
  randperm3000Head: number[];
  randperm3000Tail: number[];
  randint: number[];
  uniform: number[];
  normal7: number[];
  normal16: number[];
  normal37: number[];
  mixed: [number[], number[], number[], number[]];
}

// Written by scripts/reference/make_rng_fixture.py.
const fixture = JSON.parse(readFileSync(new URL("./mt19937.fixture.json", import.meta.url), "utf8")) as {
  cases: Case[];
};

function expectClose(actual: Float32Array, expected: number[]): void {
  expect(actual.length).toBe(expected.length);
  expected.forEach((value, i) => {
    expect(Math.abs((actual[i] as number) - value)).toBeLessThan(1e-6);
  });
}

for (const c of fixture.cases) {
  test(`seed ${c.seed} gives PyTorch's sequences`, () => {
    expect([...mt19937(c.seed).randperm(10)]).toEqual(c.randperm10);
    const long = [...mt19937(c.seed).randperm(3000)];
    expect(long.slice(0, 20)).toEqual(c.randperm3000Head);
    expect(long.slice(-5)).toEqual(c.randperm3000Tail);
    expect([...mt19937(c.seed).randint(-3, 1000, 12)]).toEqual(c.randint);
    expect([...mt19937(c.seed).uniform(9, -0.25, 0.75)]).toEqual(c.uniform);
    expectClose(mt19937(c.seed).normal(7), c.normal7);
    expectClose(mt19937(c.seed).normal(16), c.normal16);
    expectClose(mt19937(c.seed).normal(37), c.normal37);
  });

  test(`seed ${c.seed}: mixed draws leave the state where PyTorch leaves it`, () => {
    const g = mt19937(c.seed);
    expectClose(g.normal(21).slice(-3), c.mixed[0]);
    expect([...g.randperm(5)]).toEqual(c.mixed[1]);
    expectClose(g.normal(2), c.mixed[2]);
    expect([...g.uniform(3)]).toEqual(c.mixed[3]);
  });
}

test("first words of the reference implementation", () => {
  const g = mt19937(5489);
  expect([g.u32(), g.u32(), g.u32()]).toEqual([3499211612, 581869302, 3890346734]);
});

test("bad arguments are refused", () => {
  expect(() => mt19937(-1)).toThrow(TunesmithError);
  expect(() => mt19937(2 ** 32)).toThrow(TunesmithError);
  expect(() => mt19937(0).randint(3, 3, 1)).toThrow(TunesmithError);
  expect(() => mt19937(0).normal(-1)).toThrow(TunesmithError);
});
