import { expect, test } from "vitest";
import { TunesmithError } from "../../errors/index.js";
import { philox } from "./philox.js";
import { resumeRng, rng } from "./rng.js";

test("philox reproduces the known answers of Random123", () => {
  const out = new Uint32Array(4);
  philox(out, 0, 0, 0, 0, 0, 0);
  expect([...out]).toEqual([0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
  const f = 0xffffffff;
  philox(out, f, f, f, f, f, f);
  expect([...out]).toEqual([0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]);
  philox(out, 0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344, 0xa4093822, 0x299f31d0);
  expect([...out]).toEqual([0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]);
});

test("same keys give the same numbers, other keys others", () => {
  const draw = (...keys: (string | number)[]) => [...rng(1, ...keys).fillUniform(new Float64Array(4))];
  expect(draw(3, "dropout")).toEqual(draw(3, "dropout"));
  expect(draw(3, "dropout")).not.toEqual(draw(4, "dropout"));
  expect(draw(3, "dropout")).not.toEqual(draw("3", "dropout"));
  expect(draw("a", "b")).not.toEqual(draw("ab"));
  const parent = rng(1);
  parent.u32();
  expect([...parent.fork(3, "dropout").fillUniform(new Float64Array(4))]).toEqual(draw(3, "dropout"));
});

test("state survives JSON and continues the sequence", () => {
  const a = rng(5, "data");
  for (let i = 0; i < 7; i++) a.u32();
  const b = resumeRng(JSON.parse(JSON.stringify(a.state())));
  expect([...b.permutation(50)]).toEqual([...a.permutation(50)]);
  expect(b.state()).toEqual(a.state());
});

test("moments of uniform and normal", () => {
  const n = 100000;
  const u = rng(1).fillUniform(new Float32Array(n), -1, 3);
  const mean = (x: Float32Array, power: number) => x.reduce((sum, v) => sum + v ** power, 0) / x.length;
  expect(Math.abs(mean(u, 1) - 1)).toBeLessThan(0.02);
  expect(Math.min(...u.subarray(0, 1000))).toBeGreaterThanOrEqual(-1);
  expect(Math.max(...u.subarray(0, 1000))).toBeLessThan(3);
  const z = rng(2).fillNormal(new Float32Array(n));
  expect(Math.abs(mean(z, 1))).toBeLessThan(0.02);
  expect(Math.abs(mean(z, 2) - 1)).toBeLessThan(0.03);
  expect(Math.abs(mean(z, 3))).toBeLessThan(0.06);
  expect(Math.abs(mean(z, 4) - 3)).toBeLessThan(0.15);
  const r = rng(3);
  let sum = 0;
  for (let i = 0; i < 20000; i++) sum += r.normal(2, 0.5);
  expect(Math.abs(sum / 20000 - 2)).toBeLessThan(0.02);
});

test("int, permutation and choice", () => {
  const r = rng(9);
  const counts = [0, 0, 0];
  for (let i = 0; i < 30000; i++) {
    const slot = r.int(-1, 2) + 1;
    counts[slot] = (counts[slot] ?? 0) + 1;
  }
  for (const count of counts) expect(Math.abs(count - 10000)).toBeLessThan(500);
  expect([...r.permutation(100)].sort((a, b) => a - b)).toEqual([...Array(100).keys()]);
  expect(new Set(r.choice(10, 10)).size).toBe(10);
  expect(r.choice(3, 50, { replace: true }).every((v) => v >= 0 && v < 3)).toBe(true);
  expect([...r.choice(4, 2, { weights: [0, 1, 0, 2] })].sort()).toEqual([1, 3]);
  const weighted = r.choice(2, 20000, { replace: true, weights: [1, 3] });
  expect(Math.abs(weighted.reduce((a, b) => a + b, 0) / 20000 - 0.75)).toBeLessThan(0.02);
  expect(r.permutation(0).length).toBe(0);
});

test("dropout masks: the share, independent neighbours, one stream a key, odd lengths", () => {
  const mask = rng(4).fillKeep(new Uint8Array(200_001), 0.2);
  expect(new Set(mask)).toEqual(new Set([0, 1]));
  const mean = (values: ArrayLike<number>) => Array.from(values).reduce((a, b) => a + b, 0) / values.length;
  // Four standard deviations of 200,001 draws.
  expect(Math.abs(mean(mask) - 0.8)).toBeLessThan(0.0036);
  for (const lag of [1, 2, 3]) {
    const both = mean(mask.subarray(lag).map((kept, at) => kept & (mask[at] as number)));
    expect(Math.abs(both - 0.64)).toBeLessThan(0.0043);
  }
  const other = rng(5).fillKeep(new Uint8Array(200_001), 0.2);
  const equal = mean(mask.map((kept, at) => (kept === other[at] ? 1 : 0)));
  expect(Math.abs(equal - 0.68)).toBeLessThan(0.0042);
  expect(rng(4).fillKeep(new Uint8Array(7), 0.2)).toEqual(mask.slice(0, 7));
  expect(rng(4).fillKeep(new Uint8Array(9), 0)).toEqual(new Uint8Array(9).fill(1));
});

test("bad arguments are refused", () => {
  const r = rng(0);
  expect(() => rng(Number.NaN)).toThrow(TunesmithError);
  expect(() => r.int(2, 2)).toThrow(TunesmithError);
  expect(() => r.choice(2, 3)).toThrow(TunesmithError);
  expect(() => r.choice(2, 1, { weights: [1] })).toThrow(TunesmithError);
  expect(() => r.choice(2, 2, { weights: [0, 1] })).toThrow(TunesmithError);
  expect(() => r.fillKeep(new Uint8Array(1), 1)).toThrow(TunesmithError);
  expect(() => r.permutation(1.5)).toThrow(TunesmithError);
  expect(() => resumeRng({ seed: 1, stream: [], position: -1 })).toThrow(TunesmithError);
});
