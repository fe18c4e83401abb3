import { expect, test } from "vitest";
import { openBytes } from "#io";
import {
  encodeGguf,
  type GgufValue,
  loadStored,
  openGguf,
  openSafetensors,
  tensor,
  valuesOf,
} from "../../index.js";
import { fixtureBytes, fixturePath, fuzz } from "../testing/fixtures.js";

test("every type unpacks to what the gguf package gives", async () => {
  const file = await openGguf(fixturePath("quants.gguf"));
  const expected = await openSafetensors(fixturePath("quants.safetensors"));
  expect([...file.tensors.keys()].sort()).toEqual([...expected.entries.keys()].sort());
  for (const [name, stored] of file.tensors) {
    const [loaded, reference] = [await loadStored(stored), await expected.read(name)];
    expect([name, loaded.shape]).toEqual([name, reference.shape]);
    const [a, b] = [valuesOf(loaded), valuesOf(reference)];
    const largest = Math.max(...Array.from(b, Math.abs));
    for (let i = 0; i < b.length; i++) {
      const difference = Math.abs((a[i] as number) - (b[i] as number));
      if (difference > 1e-6 * largest) throw new Error(`${name}[${i}]: ${a[i]} instead of ${b[i]}`);
    }
  }
  expect(file.types.get("q4_k")).toBe("Q4_K");
  expect("load" in (file.tensors.get("bf16") ?? {})).toBe(false);
  await expected.close();
});

test("metadata of every type", async () => {
  const { metadata } = await openGguf(fixturePath("quants.gguf"));
  expect(metadata.get("general.architecture")).toEqual({ type: "string", value: "llama" });
  expect(metadata.get("test.text")?.value).toBe("snow \u2603");
  expect(metadata.get("test.bool")).toEqual({ type: "bool", value: true });
  expect(metadata.get("test.i64")).toEqual({ type: "int64", value: -(2 ** 40) });
  expect(metadata.get("test.u64")).toEqual({ type: "uint64", value: 2n ** 60n });
  expect(metadata.get("test.f32")?.value).toBe(Math.fround(0.1));
  expect(metadata.get("test.f64")?.value).toBe(0.1);
  expect(metadata.get("test.i8")?.value).toBe(-3);
  expect(metadata.get("test.ints")?.value).toEqual([1, 2, 3]);
  expect(metadata.get("test.texts")).toEqual({ type: "array", of: "string", value: ["a", "\u2603"] });
});

test("what is written reads back, in the bytes of the gguf package where it wrote the same", async () => {
  const original = await openGguf(fixturePath("quants.gguf"));
  const tensors = [
    ["a", tensor("float32", [2, 3], [1, 2, 3, 4, 5, 6])],
    ["b.weight", tensor("float16", [1], [0.5])],
    ["c", tensor("bfloat16", [2, 1, 2], [1, -2, 3, 4])],
    ["d", tensor("int32", [], [7])],
  ] as const;
  const bytes = encodeGguf(tensors, original.metadata);
  const again = await openGguf(openBytes(bytes, "again.gguf"));
  expect([...again.metadata]).toEqual([...original.metadata]);
  expect([...again.tensors.keys()]).toEqual(tensors.map(([name]) => name));
  for (const [name, value] of tensors) {
    const stored = again.tensors.get(name);
    expect(stored && (await loadStored(stored))).toEqual(value);
  }
  // Magic, version and the metadata after the two counts.
  const header = (await fixtureBytes("quants.gguf")).subarray(16, 300);
  expect([...bytes.subarray(16, 300)]).toEqual([...header]);
});

test("what cannot be written", () => {
  const value: GgufValue = { type: "uint8", value: 256 };
  expect(() => encodeGguf([], { key: value })).toThrow(expect.objectContaining({ code: "config-invalid" }));
  const bool = [["x", tensor("bool", [1], [1])]] as const;
  expect(() => encodeGguf(bool)).toThrow(expect.objectContaining({ code: "dtype-unsupported" }));
  const twice = [["x", tensor("float32", [1], [1])] as const, ["x", tensor("float32", [1], [1])] as const];
  expect(() => encodeGguf(twice)).toThrow(expect.objectContaining({ code: "name-conflict" }));
});

test("damaged copies", async () => {
  const { refused, accepted } = await fuzz("quants.gguf", 500, async (source) => {
    const file = await openGguf(source);
    for (const stored of file.tensors.values()) await loadStored(stored);
  });
  expect(refused).toBeGreaterThan(80);
  expect(accepted).toBeGreaterThan(20);
});
