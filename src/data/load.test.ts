import { existsSync } from "node:fs";
import { chmod, mkdir, mkdtemp, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type LoadDatasetOptions, loadDataset } from "./index.js";

const ASSETS = `${process.env.TUNESMITH_ASSETS ?? "../shared/assets"}/data`;

let folder = "";
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), "tunesmith-data-"));
});
afterAll(() => rm(folder, { recursive: true }));

async function load(name: string, content: string | Uint8Array, options?: LoadDatasetOptions) {
  const path = join(folder, name);
  await mkdir(dirname(path), { recursive: true });
  await writeFile(path, content);
  return loadDataset(path, options);
}

test("JSONL: detects each layout", async () => {
  const text = await load("a.jsonl", '{"text":"one"}\r\n\n{"text":"zwei ☃"}');
  expect(text).toMatchObject({ layout: "text", report: { rows: 2, dropped: [] } });
  expect(text.rows[1]).toEqual({ kind: "text", text: "zwei ☃" });
  const pair = await load("b.jsonl", '{"prompt":"p","completion":"c"}\n');
  expect(pair.rows).toEqual([{ kind: "completion", prompt: "p", completion: "c" }]);
  const chat = await load(
    "c.jsonl",
    '{"messages":[{"role":"user","content":"u"},{"role":"assistant","content":"a"}]}',
  );
  expect(chat).toMatchObject({
    layout: "chat",
    rows: [{ kind: "chat", messages: [{ role: "user" }, { content: "a" }] }],
  });
  const share = await load(
    "d.jsonl",
    '{"conversations":[{"from":"human","value":"u"},{"from":"gpt","value":"a"}]}',
  );
  expect(share.rows[0]).toEqual({
    kind: "chat",
    messages: [
      { role: "user", content: "u" },
      { role: "assistant", content: "a" },
    ],
  });
  const alpaca = await load("e.jsonl", '{"instruction":"Add.","input":"1 2","output":"3"}');
  expect(alpaca.layout).toBe("alpaca");
  expect(alpaca.rows[0]).toMatchObject({
    prompt: expect.stringMatching(
      /paired with an input.*### Instruction:\nAdd\.\n\n### Input:\n1 2\n\n### Response:\n$/s,
    ),
    completion: "3",
  });
  const named = await load("f.jsonl", '{"question":"q","answer":"a"}', {
    fields: { prompt: "question", completion: "answer" },
  });
  expect(named.rows).toEqual([{ kind: "completion", prompt: "q", completion: "a" }]);
});

test("bad rows are dropped with the reason", async () => {
  const { rows, report } = await load(
    "mixed.jsonl",
    '{"text":"ok"}\n{"text":" "}\n{"text":3}\n{"other":1}\n[1]\n{"text":"fine"}',
  );
  expect(rows).toHaveLength(2);
  expect(report.dropped).toEqual([
    { row: 2, reason: "field 'text' is empty" },
    { row: 3, reason: "field 'text' is not a text" },
    { row: 4, reason: "no field 'text'" },
    { row: 5, reason: "not an object" },
  ]);
  const chat = await load(
    "chat.jsonl",
    '{"messages":[{"role":"user","content":"u"},{"role":"assistant","content":"a"}]}\n{"messages":[{"role":"user","content":"u"}]}',
  );
  expect(chat.report.dropped).toEqual([{ row: 2, reason: "no assistant message to learn from" }]);
});

test("nothing left is an error with the reasons", async () => {
  await expect(load("g.jsonl", '{"text":""}\n{"text":""}')).rejects.toMatchObject({
    code: "data-empty",
    message: expect.stringContaining("field 'text' is empty (2)"),
  });
  await expect(load("h.jsonl", '{"question":"x"}')).rejects.toThrow(/all 1 rows dropped.*question/s);
  await expect(load("i.jsonl", "\n")).rejects.toMatchObject({ code: "data-empty" });
  await expect(load("j.txt", "  \n")).rejects.toMatchObject({ code: "data-empty" });
  await expect(loadDataset(join(folder, "missing.jsonl"))).rejects.toMatchObject({ code: "file-not-found" });
});

test("malformed content names file and line", async () => {
  await expect(load("k.jsonl", '{"text":"a"}\n\n{"text":"b"\n')).rejects.toThrow(/k\.jsonl:3: not JSON/);
  await expect(load("l.json", '[\n{"text":"a"},\n{"text":\n]')).rejects.toThrow(/l\.json:4/);
  await expect(load("m.json", '{"text":"a"}')).rejects.toThrow(/not an array/);
  await expect(load("n.csv", "text,label\na,1\nb\n")).rejects.toThrow(/n\.csv:3/);
  await expect(load("o.jsonl", Uint8Array.of(123, 10, 0xff, 0xfe))).rejects.toMatchObject({
    code: "file-corrupt",
  });
  await expect(load("p.txt", Uint8Array.of(80, 0, 1, 2))).rejects.toMatchObject({ code: "data-invalid" });
});

test("JSON, CSV, TSV and text", async () => {
  expect((await load("q.json", '[{"text":"a"},{"text":"b"}]')).rows).toHaveLength(2);
  const csv = await load("r.csv", '\ufeffprompt,completion\n"a, ""b""","c\nd"\n');
  expect(csv.rows).toEqual([{ kind: "completion", prompt: 'a, "b"', completion: "c\nd" }]);
  const tsv = await load("s.tsv", 'label\ttext\n1\tsay "hi"\n');
  expect(tsv.rows).toEqual([{ kind: "classification", text: 'say "hi"', label: "1" }]);
  const text = await load("t.txt", "one\ntwo\n");
  expect(text.rows).toMatchObject([{ text: "one\ntwo\n" }]);
  const documents = await load("u.txt", "a<|endoftext|>b<|endoftext|>\n", {
    documentSeparator: "<|endoftext|>",
  });
  expect(documents.rows).toMatchObject([{ text: "a" }, { text: "b" }]);
});

test("a folder of sources: order, filters, caps, link loops", async () => {
  const root = join(folder, "project");
  const put = async (name: string, content: string | Uint8Array) => {
    await mkdir(dirname(join(root, name)), { recursive: true });
    await writeFile(join(root, name), content);
  };
  await put("b.ts", "export const b = 1;\n");
  await put("a/z.py", "print(1)\n");
  await put("README.md", `${"long prose line ".repeat(200)}\n`);
  await put("node_modules/x/index.js", "1");
  await put(".git/config.txt", "1");
  await put("dist/out.js", "1");
  await put("image.png", Uint8Array.of(1, 0, 2));
  await put("blob.ts", Uint8Array.of(1, 0, 2));
  await put("latin.ts", Uint8Array.of(0x61, 0xe9, 0x61));
  await put("lib.min.js", "1");
  await put("bundle.js", "var a=1;".repeat(500));
  await put("huge.ts", "x\n".repeat(2000));
  await put("empty.ts", "");
  await symlink(root, join(root, "a", "loop"));
  await symlink(join(root, "nowhere"), join(root, "broken.ts"));
  const { rows, report } = await loadDataset(root, { maxFileBytes: 3500 });
  const names = rows.map((row) => (row.kind === "text" ? row.source?.slice(root.length + 1) : ""));
  expect(names).toEqual(["README.md", "a/z.py", "b.ts"]);
  const reasons = Object.fromEntries(
    report.dropped.map(({ row, reason }) => [String(row).slice(root.length + 1), reason]),
  );
  expect(reasons).toMatchObject({
    "blob.ts": "binary",
    "latin.ts": "not UTF-8 text",
    "lib.min.js": expect.stringContaining("minified"),
    "huge.ts": expect.stringContaining("4000 bytes"),
    "empty.ts": "empty",
    "broken.ts": "cannot be read",
  });
  const only = await loadDataset(root, { extensions: [".py"] });
  expect(only.rows).toHaveLength(1);
  const capped = await loadDataset(root, { extensions: ["py", "ts"], maxBytes: 15 });
  expect(capped).toMatchObject({ report: { rows: 1, capped: true } });
  await expect(loadDataset(root, { extensions: ["rs"] })).rejects.toThrow(/there are .*png/);
});

// The superuser reads everything.
test.skipIf(process.getuid?.() === 0)("what may not be read in a folder is left out", async () => {
  const root = join(folder, "locked");
  await mkdir(join(root, "sub"), { recursive: true });
  await writeFile(join(root, "a.ts"), "const a = 1;\n");
  await writeFile(join(root, "b.ts"), "const b = 1;\n", { mode: 0 });
  await chmod(join(root, "sub"), 0);
  const { rows, report } = await loadDataset(root);
  expect(rows).toHaveLength(1);
  expect(report.dropped.map(({ reason }) => reason)).toEqual(["cannot be read", "cannot be read"]);
  await chmod(join(root, "sub"), 0o700);
});

test.skipIf(!existsSync(ASSETS))("real files (needs the assets)", async () => {
  const alpaca = await loadDataset(`${ASSETS}/chat/alpaca_en_demo.json`);
  expect(alpaca).toMatchObject({ layout: "alpaca", report: { dropped: [] } });
  expect(alpaca.rows.length).toBeGreaterThan(500);
  const shakespeare = await loadDataset(`${ASSETS}/text/tinyshakespeare.txt`);
  expect(shakespeare).toMatchObject({ layout: "text", report: { rows: 1, bytes: 1115394 } });
  const gsm8k = await loadDataset(`${ASSETS}/gsm8k/test.jsonl`, {
    fields: { prompt: "question", completion: "answer" },
  });
  expect(gsm8k.rows).toHaveLength(1319);
});
