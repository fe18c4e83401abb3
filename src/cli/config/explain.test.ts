import { expect, test } from "vitest";
import { configKeys, explain } from "./explain.js";

test("a run's option with type, limits and default", () => {
  expect(explain("warmup")).toEqual([
    expect.objectContaining({ flag: "--warmup", type: "number, at least 0", fallback: 0, required: false }),
  ]);
  expect(explain("model")).toMatchObject([{ required: true, methods: undefined, type: "string" }]);
  expect(explain("schedule")[0]?.type).toMatch(/^"constant" \| "linear" \| "cosine" \| /);
  expect(explain("prefixCache")[0]?.type).toMatch(/^integer, at least 0 or string, as /);
});

test("an option of methods names them", () => {
  const rank = explain("rank");
  expect(rank[0]?.methods).toContain("lora");
  expect(rank.flatMap(({ methods }) => methods)).not.toContain("full");
  expect(explain("rankPattern")[0]?.type).toMatch(/^mapping of names to integer, above 0/);
});

test("every key has a meaning, others have none", () => {
  for (const key of configKeys()) {
    const [first] = explain(key);
    expect(first?.description, key).not.toBe("");
    expect(first?.type, key).not.toMatch(/undefined|anything/);
  }
  expect(explain("rnak")).toEqual([]);
});
