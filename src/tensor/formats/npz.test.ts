import { existsSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { openBytes } from "#io";
import { TunesmithError } from "../../errors/index.js";
import {
  encodeNpy,
  encodeNpz,
  isTensorRef,
  loadStored,
  openNpy,
  openNpz,
  type TensorRef,
  tensor,
} from "../index.js";
import { expectedOf, fixtureBytes, fixturePath, fuzz, spelled } from "./testing/fixtures.js";

const dtypeNames: Readonly<Record<string, string>> = { "<U5": "string", "|S2": "string", ">f4": "float32" };

test.each(["arrays.npz", "compressed.npz"])("%s reads as numpy reads it", async (name) => {
  const file = await openNpz(fixturePath(name));
  const expected = await expectedOf("arrays");
  expect([...file.tensors.keys()].sort()).toEqual(expected.map((entry) => entry.name).sort());
  for (const entry of expected) {
    const loaded = await file.read(entry.name);
    expect(loaded.shape).toEqual(entry.shape);
    expect(loaded.dtype).toBe(dtypeNames[entry.dtype] ?? entry.dtype);
    expect([entry.name, spelled(loaded)]).toEqual([entry.name, entry.values]);
  }
  await file.close();
});

test("plain arrays of a stored archive stay where they are", async () => {
  const { tensors } = await openNpz(fixturePath("arrays.npz"));
  const direct = [...tensors].filter(([, stored]) => !("load" in stored)).map(([name]) => name);
  expect(direct).toContain("f4");
  expect(direct).not.toContain("fortran");
  expect(isTensorRef(tensors.get("f4") as TensorRef)).toBe(true);
});

test("an array of objects is refused, the others are read", async () => {
  const file = await openNpz(fixturePath("compressed.npz"));
  expect([...file.unreadable.keys()]).toEqual(["objects"]);
  await expect(file.read("objects")).rejects.toMatchObject({ code: "dtype-unsupported" });
  await expect(file.read("objects")).rejects.toThrow(/Python objects/);
  await expect(file.read("nothing")).rejects.toMatchObject({ code: "tensor-not-found" });
});

test("a .npy file in Fortran order; written again it has numpy's bytes", async () => {
  const read = await loadStored((await openNpy(fixturePath("fortran.npy"))).array);
  expect(read.shape).toEqual([2, 3, 4]);
  expect(Array.from(read.data as Float32Array)).toEqual(Array.from({ length: 24 }, (_, i) => i));
  const written = encodeNpy(read, { fortran: true });
  expect([...written]).toEqual([...(await fixtureBytes("fortran.npy"))]);
});

describe("round trips", () => {
  const tensors = [
    ["f32", tensor("float32", [2, 3], [1, 2, 3, 4, 5, 6])],
    ["f16", tensor("float16", [2], [0.5, -1])],
    ["f64", tensor("float64", [], [Math.PI])],
    ["i64", tensor("int64", [2], [1n, -(2n ** 60n)])],
    ["bool", tensor("bool", [3], [1, 0, 1])],
    ["text", tensor("string", [2, 2], ["a", "snow \u2603\u{1f600}", "", "bc"])],
    ["empty", tensor("float32", [0, 4], [])],
    ["__proto__", tensor("uint8", [1], [7])],
  ] as const;

  test.each([{}, { compress: true }, { fortran: true }, { compress: true, fortran: true }])(
    "%j",
    async (options) => {
      const bytes = encodeNpz(tensors, options);
      const file = await openNpz(openBytes(bytes, "again.npz"));
      expect([...file.tensors.keys()]).toEqual(tensors.map(([name]) => name));
      for (const [name, value] of tensors) expect(await file.read(name)).toEqual(value);
      expect(encodeNpz(tensors, options)).toEqual(bytes);
    },
  );

  test("what numpy lacks", () => {
    expect(() => encodeNpy(tensor("bfloat16", [1], [1]))).toThrow(TunesmithError);
    const twice = [tensors[0], tensors[0]] as const;
    expect(() => encodeNpz(twice)).toThrow(/two arrays/);
  });
});

test.each(["arrays.npz", "compressed.npz"])("damaged copies of %s", async (name) => {
  const { refused, accepted } = await fuzz(name, 500, async (source) => {
    const file = await openNpz(source);
    for (const stored of file.tensors.values()) await loadStored(stored);
  });
  expect(refused).toBeGreaterThan(80);
  expect(accepted).toBeGreaterThan(10);
});

const rollouts = join(
  process.env.TUNESMITH_ASSETS ?? "../shared/assets",
  "data/cartpole/expert-rollouts.npz",
);
test.skipIf(!existsSync(rollouts))("expert rollouts, compressed, with an array of objects", async () => {
  const file = await openNpz(rollouts);
  expect([...file.unreadable.keys()]).toEqual(["infos"]);
  const [obs, acts, rews] = [await file.read("obs"), await file.read("acts"), await file.read("rews")];
  expect([obs.dtype, obs.shape]).toEqual(["float32", [27021, 4]]);
  expect([acts.dtype, acts.shape[0]]).toEqual(["int64", 26964]);
  expect(new Set(rews.data as Float64Array)).toEqual(new Set([1]));
  await file.close();
});
