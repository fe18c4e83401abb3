import { expect, test } from "vitest";
import { tokenizerFromJson } from "../../models/tokenizer/index.js";
import { trainBpe } from "../bpe/index.js";
import { answerRow, labelNames } from "../rows.js";
import type { RowStream } from "../stream.js";
import type { DroppedRow, Layout, Row } from "../types.js";
import { checkDataset } from "./check.js";
import { fingerprinter, similarity } from "./fingerprint.js";
import { lengthCounter } from "./lengths.js";
import { maskRow } from "./mask.js";
import { hashTable } from "./tables.js";

const stream = (rows: readonly Row[], layout: Layout = "text", dropped: DroppedRow[] = []): RowStream => ({
  name: "rows",
  layout,
  bytes: rows.length,
  async *batches() {
    yield { rows: rows.map((value, index) => ({ row: index + 1, value })), dropped };
  },
  close: async () => {},
});

const text = (content: string): Row => ({ kind: "text", text: content });
const words = Array.from({ length: 400 }, (_, index) => `w${(index * 7919) % 4001}`);
const sentence = (from: number, length = 40) => words.slice(from, from + length).join(" ");

const corpus = ["the cat sat on the mat and the dog sat on the cat; a user and an assistant"];
const json = trainBpe(corpus, { vocabSize: 280 });
const tokenizer = await tokenizerFromJson(json, { eos_token: "<|endoftext|>" });

test("fingerprints estimate the share of phrases in common; case and punctuation do not count", () => {
  const print = fingerprinter();
  const signature = (content: string) => print(content).signature.slice();
  const base = words.slice(0, 300);
  for (const changed of [0, 3, 12, 40]) {
    const other = base.map((word, at) =>
      changed > 0 && at % Math.floor(300 / changed) === 5 ? `x${at}` : word,
    );
    const phrases = (list: readonly string[]) =>
      new Set(list.slice(2).map((_, at) => list.slice(at, at + 3).join(" ")));
    const [a, b] = [phrases(base), phrases(other)];
    const common = [...a].filter((phrase) => b.has(phrase)).length;
    const jaccard = common / (a.size + b.size - common);
    const estimate = similarity(signature(base.join(" ")), 0, signature(other.join(" ")), 0);
    expect(Math.abs(estimate - jaccard), `${changed} changed`).toBeLessThan(0.2);
  }
  expect(
    similarity(
      signature("The Cat, sat. On a mat; so it is then!"),
      0,
      signature("the cat sat on a mat so it is then"),
      0,
    ),
  ).toBe(1);
  expect(print("too short").comparable).toBe(false);
  expect(print("日本語の文章は空白なしで書かれる").comparable).toBe(true);
  const [first, second] = [{ ...print("a") }, { ...print("b") }];
  expect([first.high, first.low]).not.toEqual([second.high, second.low]);
});

test("duplicates: exact, nearly equal, contradicting, and over parts", async () => {
  const train = [
    text(sentence(0)),
    text(sentence(100)),
    text(sentence(0)),
    text(`${sentence(100)} more`),
    text(sentence(200)),
  ];
  const validation = [text(sentence(200)), text(`more ${sentence(0)}`), text(sentence(300))];
  const { duplicates, findings } = await checkDataset([
    { name: "train", stream: stream(train) },
    { name: "validation", stream: stream(validation) },
  ]);
  expect(duplicates.exact).toMatchObject({ count: 1 });
  // The smaller part is read first.
  expect(duplicates.leakage.exact).toEqual({
    count: 1,
    examples: [{ part: "train", row: 5, of: { part: "validation", row: 1 } }],
  });
  expect(duplicates.near.count + duplicates.leakage.near.count).toBe(2);
  expect(duplicates.complete).toBe(true);
  expect(findings[0]).toMatchObject({ severity: "error", code: "leakage" });

  const label = (content: string, name: string): Row => ({
    kind: "classification",
    text: content,
    label: name,
  });
  const labelled = [label("a", "x"), label("a", "y"), label("b", "x"), label("b", "x")];
  const check = await checkDataset([{ name: "train", stream: stream(labelled, "classification") }]);
  expect(check.duplicates.contradictions).toMatchObject({ count: 1, examples: [{ row: 2, of: { row: 1 } }] });
  expect(check.duplicates.exact.count).toBe(1);
  expect(check.findings.map(({ code }) => code)).toEqual(["duplicates", "contradictions"]);
  expect(check.parts[0]?.labels).toEqual([
    ["x", 3],
    ["y", 1],
  ]);
});

test("full tables stop comparing, and say so", async () => {
  const table = hashTable(12 * 8192);
  const known = Array.from({ length: 20_000 }, (_, index) =>
    table.add((index * 2654435761) >>> 0, index, index),
  );
  expect(known.every((value) => value === undefined)).toBe(true);
  expect(table.full).toBe(true);
  expect(table.add(0, 0, 9)).toBe(0);
  const rows = Array.from({ length: 30_000 }, (_, index) => text(`row ${index}`));
  const { duplicates } = await checkDataset([{ name: "train", stream: stream(rows) }], {
    memoryBytes: 200_000,
  });
  expect(duplicates).toMatchObject({ complete: false, exact: { count: 0 } });
});

test("dropped rows are grouped by reason; every one goes to onDropped", async () => {
  const dropped = Array.from({ length: 9 }, (_, row) => ({ row, reason: row < 7 ? "empty" : "not JSON" }));
  const seen: DroppedRow[] = [];
  const { parts, findings } = await checkDataset(
    [{ name: "train", stream: stream([text("a")], "text", dropped) }],
    {
      onDropped: (_, row) => void seen.push(row),
    },
  );
  expect(parts[0]?.dropped).toEqual([
    { reason: "empty", count: 7, rows: [0, 1, 2, 3, 4] },
    { reason: "not JSON", count: 2, rows: [7, 8] },
  ]);
  expect(seen).toEqual(dropped);
  expect(findings[0]).toMatchObject({ code: "dropped", severity: "warning", count: 9 });
});

test("lengths: quantiles exact for short ones, within 1 part in 32 for long ones", () => {
  const counter = lengthCounter();
  for (let length = 1; length <= 1000; length++) counter.add(length);
  expect(counter.report()).toMatchObject({ min: 1, median: 500, p95: 950, max: 1000, mean: 500.5 });
  expect(counter.report()?.bins.reduce((sum, { count }) => sum + count, 0)).toBe(1000);
  const long = lengthCounter();
  for (let index = 0; index < 100; index++) long.add(50_000 + 1000 * index);
  const median = long.report()?.median ?? 0;
  expect(Math.abs(median / 99_000 - 1)).toBeLessThan(1 / 32);
  expect(lengthCounter().report()).toBeUndefined();
});

const chat = (answer: string, tools?: object[]): Row => ({
  kind: "chat",
  messages: [
    { role: "user", content: "the cat" },
    tools ? { role: "assistant", content: "", tool_calls: tools } : { role: "assistant", content: answer },
  ],
});
const ENDED = "{% for m in messages %}{{ m.content + eos_token }}{% endfor %}";
const OPEN = "{% for m in messages %}{{ m.content + '\\n' }}{% endfor %}";

async function codes(rows: Row[], layout: Layout, options: object = {}) {
  const { findings } = await checkDataset([{ name: "train", stream: stream(rows, layout) }], {
    tokenizer,
    ...options,
  });
  return findings.map(({ code }) => code).filter((code) => code !== "pad-is-eos");
}

test("special tokens: answers without an end, tools that are not written, tokens in the text", async () => {
  expect(await codes([chat("sat")], "chat", { chatTemplate: ENDED })).toEqual([]);
  expect(await codes([chat("sat")], "chat", { chatTemplate: OPEN })).toEqual(["no-end-of-answer"]);
  expect(await codes([chat("sat")], "chat")).toEqual(["no-chat-template"]);
  const call = [{ type: "function", function: { name: "weather", arguments: {} } }];
  expect(await codes([chat("", call)], "chat", { chatTemplate: ENDED })).toContain("tool-calls-lost");
  const written =
    "{% for m in messages %}{{ m.content }}{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}{{ eos_token }}{% endfor %}";
  expect(await codes([chat("", call)], "chat", { chatTemplate: written })).toEqual([]);
  expect(await codes([text("the cat<|endoftext|>the dog")], "text")).toEqual(["special-token-in-text"]);
  const ended: Row = { kind: "completion", prompt: "the", completion: " cat<|endoftext|>" };
  expect(await codes([ended], "completion")).toEqual(["double-eos", "special-token-in-text"]);
  expect(await codes([text("the cat")], "text", { vocabSize: 100 })).toEqual(["id-beyond-vocabulary"]);
  const bare = await tokenizerFromJson(json);
  expect(await codes([text("the cat")], "text", { tokenizer: bare })).toEqual(["no-eos"]);
  const bos = await tokenizerFromJson(json, { bos_token: "<|endoftext|>", eos_token: "<|endoftext|>" });
  const doubled = "{{ bos_token + bos_token }}{% for m in messages %}{{ m.content + eos_token }}{% endfor %}";
  expect(await codes([chat("sat")], "chat", { tokenizer: bos, chatTemplate: doubled })).toEqual([
    "double-bos",
  ]);
});

test("truncation: what is lost, and answers of which nothing is left", async () => {
  const rows: Row[] = [
    { kind: "completion", prompt: "x", completion: "y".repeat(20) },
    { kind: "completion", prompt: "x".repeat(20), completion: "y" },
    { kind: "completion", prompt: "x", completion: "y" },
  ];
  const { parts, findings } = await checkDataset([{ name: "train", stream: stream(rows, "completion") }], {
    tokenizer,
    maxLength: 10,
  });
  const tokens = parts[0]?.tokens;
  expect(tokens).toMatchObject({ rows: 3, truncated: { examples: 2, lost: 1 }, maxLength: 10 });
  expect(tokens?.lengths?.max).toBe(22);
  expect(findings.find(({ code }) => code === "truncated")).toMatchObject({ severity: "warning", count: 2 });
});

test("the mask of a row is what training sees, for both answers of a pair", () => {
  const shown = (row: Row, options = {}) =>
    maskRow(row, tokenizer, { maxLength: 64, ...options }).map(({ name, tokens }) => [
      name,
      tokens
        .map((token) => (token.trained ? `[${token.text}]` : token.text))
        .join("")
        .replaceAll("][", ""),
    ]);
  expect(shown({ kind: "completion", prompt: "the cat", completion: " sat" })).toEqual([
    ["", "the cat[ sat<|endoftext|>]"],
  ]);
  const pair: Row = { kind: "preference", prompt: "the", chosen: " cat", rejected: " dog" };
  expect(shown(pair)).toEqual([
    ["chosen", "the[ cat<|endoftext|>]"],
    ["rejected", "the[ dog<|endoftext|>]"],
  ]);
  const turns = [
    { role: "user", content: "a" },
    { role: "assistant", content: "b" },
    { role: "user", content: "c" },
  ];
  const judged: Row = {
    kind: "feedback",
    prompt: turns,
    completion: [{ role: "assistant", content: "d" }],
    desirable: false,
  };
  expect(shown(judged, { chatTemplate: ENDED })).toEqual([
    ["undesirable", "a<|endoftext|>b<|endoftext|>c<|endoftext|>[d<|endoftext|>]"],
  ]);
  expect(maskRow({ kind: "tags", tokens: ["a"], tags: [1] }, tokenizer, { maxLength: 8 })).toEqual([]);
  const special = maskRow(text("the"), tokenizer, { maxLength: 8 })[0]?.tokens.at(-1);
  expect(special).toMatchObject({ special: true, trained: true, text: "<|endoftext|>" });
});

test("rows of the other kinds as text rows; classes in order", () => {
  const pair = { kind: "preference", prompt: "p", chosen: "a", rejected: "b" } as const;
  expect(answerRow(pair, "rejected")).toEqual({ kind: "completion", prompt: "p", completion: "b" });
  const label = (name: string | number): Row => ({ kind: "classification", text: "t", label: name });
  expect(labelNames(["b", 10, "a", 9, "b"].map(label))).toEqual([9, 10, "a", "b"]);
  expect(labelNames([{ kind: "tags", tokens: ["x", "y"], tags: ["N", "D"] }])).toEqual(["D", "N"]);
});
