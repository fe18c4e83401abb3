import { expect, test } from "vitest";
import { partitionRows } from "./partition.js";
import type { RowStream } from "./stream.js";
import type { Row } from "./types.js";

const stream = (rows: readonly Row[]): RowStream => ({
  name: "rows",
  layout: "classification",
  bytes: 0,
  async *batches() {
    yield { rows: rows.map((value, index) => ({ row: index + 1, value })), dropped: [] };
  },
  close: async () => {},
});
const label = (text: string, name: string): Row => ({ kind: "classification", text, label: name });

async function partsOf(rows: readonly Row[], shares: Record<string, number>, options = {}) {
  const { counts, rows: read } = await partitionRows(stream(rows), { shares, ...options });
  const parts: Record<string, Row[]> = {};
  for await (const { part, row } of read()) {
    parts[part] ??= [];
    parts[part]?.push(row.value);
  }
  expect(Object.fromEntries(Object.entries(parts).map(([name, list]) => [name, list.length]))).toEqual(
    counts,
  );
  return { counts, parts };
}

test("every class has its share in every part; the same parts every time", async () => {
  const rows = [
    ...Array.from({ length: 500 }, (_, index) => label(`a ${index}`, "many")),
    ...Array.from({ length: 20 }, (_, index) => label(`b ${index}`, "few")),
  ];
  const shares = { train: 0.8, validation: 0.1, test: 0.1 };
  const first = await partsOf(rows, shares);
  expect(first.counts).toEqual({ train: 416, validation: 52, test: 52 });
  const few = (list: readonly Row[] = []) =>
    list.filter((row) => row.kind === "classification" && row.label === "few").length;
  expect(Object.values(first.parts).map(few)).toEqual(expect.arrayContaining([16, 2, 2]));
  expect(await partsOf(rows, shares)).toEqual(first);
  expect((await partsOf(rows, shares, { seed: 1 })).parts).not.toEqual(first.parts);
  expect((await partsOf(rows, shares, { stratify: false })).counts.train).toBe(416);
});

test("rows of one input stay together", async () => {
  const rows = Array.from({ length: 300 }, (_, index) =>
    label(`text ${index % 30}`, index < 150 ? "x" : "y"),
  );
  const { parts } = await partsOf(rows, { train: 0.7, validation: 0.3 }, { stratify: false });
  const inputs = (list: readonly Row[] = []) =>
    new Set(list.map((row) => (row.kind === "classification" ? row.text : "")));
  const held = inputs(parts.validation);
  expect(held.size).toBeGreaterThan(3);
  expect([...inputs(parts.train)].some((text) => held.has(text))).toBe(false);
});

test("parts that cannot be made are refused", async () => {
  const rows = [label("a", "x"), label("b", "x")];
  await expect(partsOf(rows, { train: 0.9, validation: 0.3 })).rejects.toMatchObject({
    code: "config-invalid",
  });
  await expect(partsOf(rows, { train: 1 })).rejects.toMatchObject({ code: "config-invalid" });
  await expect(partsOf(rows, { train: 0.99, validation: 0.01 })).rejects.toThrow(
    /'validation' would be empty/,
  );
});
