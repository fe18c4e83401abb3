import { expect, test } from "vitest";
import { rng } from "../../runtime/random/index.js";
import { largestGap } from "../testing/fixtures.js";
import {
  type Mpo,
  type MpoGauge,
  mpoContract,
  mpoCounts,
  mpoDecompose,
  mpoFactors,
  mpoRegauge,
  mpoShape,
} from "./chain.js";

const random = (rows: number, cols: number) => ({
  rows,
  cols,
  data: rng(5, "mpo", rows, cols).fillNormal(new Float64Array(rows * cols)),
});
const gapOf = (chain: Mpo, data: Float64Array) => largestGap(mpoContract(chain).data, data);
const FACTORS = { 768: [4, 4, 4, 4, 3], 3072: [4, 4, 8, 6, 4] };

test("factors are those of the authors' code", () => {
  expect(mpoFactors(768, 5)).toEqual(FACTORS[768]);
  expect(mpoFactors(3072, 5)).toEqual(FACTORS[3072]);
  expect(mpoFactors(1024, 5)).toEqual([4, 4, 4, 4, 4]);
  expect(mpoFactors(4096, 5)).toEqual([4, 4, 8, 8, 4]);
  expect(mpoFactors(64, 3)).toEqual([4, 4, 4]);
  expect(mpoFactors(97, 5)).toEqual([1, 1, 97, 1, 1]);
});

test("bonds and counts follow the formula", () => {
  const square = mpoShape(768, 768);
  expect(square.bonds).toEqual([1, 16, 256, 144, 9, 1]);
  expect(mpoCounts(square)).toEqual({ central: 589824, auxiliary: 86609 });
  expect(mpoCounts(mpoShape(3072, 768)).auxiliary).toBe(148880);
  expect(mpoShape(768, 768, { truncate: 100 }).bonds).toEqual([1, 16, 100, 100, 9, 1]);
});

test.each(["central", "left", "spread"] as MpoGauge[])("the chain is exact in gauge %s", (gauge) => {
  const weight = random(48, 60);
  const chain = mpoDecompose(weight, { gauge });
  expect(gapOf(chain, weight.data)).toBeLessThan(1e-12);
  for (const other of ["left", "spread", "central"] as const)
    expect(gapOf(mpoRegauge(chain, other), weight.data), other).toBeLessThan(1e-11);
});

const norm = (data: Float64Array) => Math.sqrt(data.reduce((sum, value) => sum + value * value, 0));

test("the gauge says where the size lies", () => {
  const weight = random(48, 60);
  const size = norm(weight.data);
  const norms = (gauge: MpoGauge) => mpoDecompose(weight, { gauge }).cores.map(norm);
  const { bonds } = mpoShape(48, 60);
  expect(norms("left").slice(0, 4)).toEqual(bonds.slice(1, 5).map((d) => expect.closeTo(Math.sqrt(d), 9)));
  expect(norms("left")[4]).toBeCloseTo(size, 9);
  expect(norms("central")[2]).toBeCloseTo(size, 9);
  expect(norms("central")[3]).toBeCloseTo(Math.sqrt(Number(bonds[3])), 9);
  const [least, most] = [Math.min(...norms("spread")), Math.max(...norms("spread"))];
  expect(most / least).toBeLessThan(size / 4);
});

test("what truncation loses is what it says it discarded", () => {
  const weight = random(64, 48);
  for (const truncate of [3, 6, 10]) {
    const chain = mpoDecompose(weight, { cores: 3, truncate });
    expect(Math.max(...chain.shape.bonds)).toBe(truncate);
    const lost = norm(mpoContract(chain).data.map((value, at) => value - Number(weight.data[at])));
    expect(lost ** 2).toBeCloseTo(chain.discarded, 7);
    expect(lost).toBeGreaterThan(0.1);
    const spread = mpoRegauge(chain, "spread");
    expect(largestGap(mpoContract(spread).data, mpoContract(chain).data)).toBeLessThan(1e-10);
  }
});

test("a singular and a zero matrix are chains too", () => {
  for (const value of [0, 1]) {
    const weight = { rows: 16, cols: 16, data: new Float64Array(256).fill(value) };
    for (const gauge of ["central", "spread"] as const)
      expect(gapOf(mpoDecompose(weight, { cores: 3, gauge }), weight.data)).toBeLessThan(1e-12);
  }
});

test("sizes that make no chain are refused by name", () => {
  expect(() => mpoShape(8, 8, { cores: 4 })).toThrow(/no middle/);
  expect(() => mpoShape(8, 8, { cores: 3, factors: { 8: [2, 2, 3] } })).toThrow(/2 · 2 · 3/);
});
