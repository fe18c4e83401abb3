import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import type { Context } from "../command.js";
import { dataCheckSchema, dataShowSchema, dataSplitSchema } from "../config/data-schema.js";
import type { Ui } from "../ui.js";
import { runDataCheck } from "./data-check.js";
import { runDataShow } from "./data-show.js";
import { runDataSplit } from "./data-split.js";

const MODEL = "assets/default-model";
let folder = "";
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "tunesmith-data-cli-"));
});
afterAll(() => rm(folder, { recursive: true }));

/** Runs a command and gives what it said and its result. */
async function call<O>(run: (options: O, context: Context) => Promise<void>, options: O) {
  const said: string[] = [];
  let result: Record<string, unknown> = {};
  const ui: Ui = {
    json: false,
    say: (text = "") => void said.push(text),
    write: (text) => void said.push(text),
    note: () => {},
    result(value) {
      result = JSON.parse(JSON.stringify(value));
    },
    progress: () => ({ update: () => {}, stop: () => {} }),
  };
  await run(options, { ui, signal: new AbortController().signal, origins: {} });
  return { text: said.join("\n"), result };
}

async function put(name: string, rows: readonly unknown[]): Promise<string> {
  const path = join(folder, name);
  await writeFile(path, rows.map((row) => (typeof row === "string" ? row : JSON.stringify(row))).join("\n"));
  return path;
}

test("check says what was dropped, doubled and leaked, and writes every dropped row", async () => {
  const row = (n: number) => ({ prompt: `what is ${n} times three in words`, completion: `it is ${3 * n}` });
  const data = await put("train.jsonl", [
    row(1),
    row(2),
    row(1),
    { prompt: "x", completion: "" },
    "{",
    row(3),
  ]);
  const validation = await put("validation.jsonl", [row(3)]);
  const dropped = join(folder, "dropped.jsonl");
  const options = { data, validation, model: MODEL, dropped };
  const { text } = await call(runDataCheck, dataCheckSchema.parse(options));
  for (const said of [
    "4 of completion (80 % sure",
    "1  field 'completion' is empty (4)",
    "1  not JSON (5)",
    "1 rows (3 = 1)",
    "1 rows (train 6 = validation 1)",
    "error: 1 rows are in two parts",
  ])
    expect(text).toContain(said);
  expect(
    (await readFile(dropped, "utf8"))
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line)),
  ).toEqual([
    { part: "train", row: 4, reason: "field 'completion' is empty" },
    { part: "train", row: 5, reason: "not JSON" },
  ]);
  const { result } = await call(runDataCheck, dataCheckSchema.parse(options));
  expect(result).toMatchObject({ duplicates: { leakage: { exact: { count: 1 } } } });
  await expect(call(runDataCheck, dataCheckSchema.parse({ ...options, strict: true }))).rejects.toMatchObject(
    {
      code: "data-invalid",
    },
  );
});

test("show prints the mask of the row that is asked for", async () => {
  const data = await put("show.jsonl", [
    { prompt: "a", completion: " b" },
    { prompt: "", completion: "" },
    { prompt: "export", completion: " const" },
  ]);
  const show = (options: object) =>
    call(runDataShow, dataShowSchema.parse({ data, model: MODEL, ...options }));
  const { text, result } = await show({ row: 3 });
  expect(text).toContain("row 3, completion");
  const [shown] = (result as { rows: { examples: { tokens: { text: string; trained: boolean }[] }[] }[] })
    .rows;
  const tokens = shown?.examples[0]?.tokens ?? [];
  const spoken = (trained: boolean) =>
    tokens
      .filter((token) => token.trained === trained)
      .map((token) => token.text)
      .join("");
  expect([spoken(false), spoken(true)]).toEqual(["export", " const<|endoftext|>"]);
  expect((await show({ row: 1, ids: true })).text).toMatch(/trained {2}" b"/);
  await expect(show({ row: 2 })).rejects.toThrow(/row 2 is dropped: field 'completion' is empty/);
  await expect(show({ row: 9 })).rejects.toThrow(/has no row 9/);
});

test("split writes rows as they were read, the same every time", async () => {
  const rows = Array.from({ length: 100 }, (_, n) => ({
    text: `row ${n}`,
    category: n % 4 ? "a" : "b",
    extra: n,
  }));
  const data = await put("all.jsonl", rows);
  const out = join(folder, "parts");
  const options = dataSplitSchema.parse({ data, out, validationShare: 0.2, testShare: 0.2 });
  const { result } = await call(runDataSplit, options);
  expect(result).toMatchObject({ counts: { train: 60, validation: 20, test: 20 } });
  const read = async (name: string) =>
    (await readFile(join(out, `${name}.jsonl`), "utf8"))
      .trim()
      .split("\n")
      .map((line) => JSON.parse(line));
  const test = await read("test");
  expect(test.filter(({ category }) => category === "b")).toHaveLength(5);
  const all = [...(await read("train")), ...(await read("validation")), ...test];
  expect(all.sort((a, b) => a.extra - b.extra)).toEqual(rows);
  await call(runDataSplit, options);
  expect(await read("test")).toEqual(test);
  await expect(call(runDataSplit, { ...options, validationShare: 0, testShare: 0 })).rejects.toMatchObject({
    code: "config-invalid",
  });
});
