import { expect, test } from "vitest";
import { detectLayout } from "./detect.js";
import { readRow } from "./read.js";

const user = { role: "user", content: "u" };
const good = { role: "assistant", content: "good" };
const bad = { role: "assistant", content: "bad" };

/** Detects the layout of a value and reads it. */
function read(value: object) {
  const guess = detectLayout([value]);
  if (!guess) return undefined;
  return { ...guess, row: readRow(value, guess.layout, guess.fields) };
}

test("preference pairs: text, conversations, an implicit prompt, ShareGPT", () => {
  const text = read({ prompt: "p", chosen: "yes", rejected: "no" });
  expect(text).toMatchObject({ layout: "preference", confidence: 1 });
  expect(text?.row).toEqual({ kind: "preference", prompt: "p", chosen: "yes", rejected: "no" });
  const turns = { kind: "preference", prompt: [user], chosen: [good], rejected: [bad] };
  expect(read({ prompt: [user], chosen: [good], rejected: [bad] })?.row).toEqual(turns);
  expect(read({ chosen: [user, good], rejected: [user, bad] })?.row).toEqual(turns);
  expect(read({ prompt: "u", chosen: [user, good], rejected: [user, bad] })?.row).toEqual(turns);
  expect(read({ prompt: [user], chosen: "good", rejected: "bad" })?.row).toEqual(turns);
  const share = { conversations: [{ from: "human", value: "u" }], chosen: { from: "gpt", value: "good" } };
  expect(read({ ...share, rejected: { from: "gpt", value: "bad" } })?.row).toEqual(turns);
  expect(read({ chosen: "Human: hi Assistant: yes", rejected: "Human: hi Assistant: no" })?.row).toEqual({
    kind: "preference",
    prompt: "Human: hi Assistant:",
    chosen: " yes",
    rejected: " no",
  });
});

test("preference pairs that teach nothing are refused with the reason", () => {
  const reason = (value: object) => readRow(value, "preference", {});
  expect(reason({ prompt: "p", chosen: "a", rejected: "a" })).toBe("'chosen' and 'rejected' are equal");
  expect(reason({ prompt: "p", chosen: "a" })).toBe("no field 'rejected'");
  expect(reason({ prompt: "p", chosen: "a", rejected: [bad] })).toMatch(/not both/);
  expect(reason({ chosen: "a", rejected: "b" })).toMatch(/begin differently/);
  expect(reason({ chosen: [user], rejected: [user, bad] })).toMatch(/no answer of its own/);
});

test("feedback: prompt and completion or a conversation, with a verdict", () => {
  expect(read({ prompt: "p", completion: "c", label: true })).toMatchObject({
    layout: "feedback",
    row: { kind: "feedback", prompt: "p", completion: "c", desirable: true },
  });
  expect(read({ prompt: "p", completion: "c", label: "False" })?.row).toMatchObject({ desirable: false });
  expect(read({ messages: [user, bad], label: false })).toMatchObject({
    layout: "feedback",
    row: { prompt: [user], completion: [bad], desirable: false },
  });
  expect(readRow({ messages: [user], label: true }, "feedback", {})).toMatch(/not the assistant's/);
  expect(readRow({ prompt: "p", completion: "c", label: 3 }, "feedback", {})).toMatch(
    /neither true nor false/,
  );
  // A number beside prompt and completion is no verdict.
  expect(read({ prompt: "p", completion: "c", label: 3 })).toMatchObject({ layout: "completion" });
});

test("classification: own and other names, sentence pairs, scores", () => {
  expect(read({ text: "t", label: "x" })?.row).toEqual({ kind: "classification", text: "t", label: "x" });
  const category = read({ text: "t", category: "x" });
  expect(category).toMatchObject({ layout: "classification", confidence: 0.8, alternatives: ["text"] });
  expect(category?.reason).toContain("'category' as the label");
  expect(read({ premise: "a", hypothesis: "b", label: 2n })?.row).toEqual({
    kind: "classification",
    text: "a",
    pair: "b",
    label: 2,
  });
  expect(read({ sentence1: "a", sentence2: "b", score: 4.5 })?.row).toMatchObject({ pair: "b", label: 4.5 });
  // Web text with a quality score is text.
  expect(read({ text: "t", url: "u", score: 0.3 })).toMatchObject({ layout: "text" });
  expect(readRow({ text: "t", label: null }, "classification", {})).toBe("no field 'label'");
});

test("tags, similarity, chats with tools, named fields", () => {
  expect(read({ tokens: ["a", "b"], ner_tags: [0n, 1n] })?.row).toEqual({
    kind: "tags",
    tokens: ["a", "b"],
    tags: [0, 1],
  });
  expect(readRow({ tokens: ["a"], tags: [] }, "tags", {})).toBe("1 tokens have 0 tags");
  expect(read({ query: "q", positive: "p", negative: "n" })?.row).toEqual({
    kind: "similarity",
    anchor: "q",
    positive: "p",
    negatives: ["n"],
  });
  const call = { from: "function_call", value: '{"name": "f", "arguments": {"x": 1}}' };
  const chat = read({ conversations: [{ from: "human", value: "u" }, call], tools: '[{"name": "f"}]' });
  expect(chat).toMatchObject({ layout: "chat", confidence: 1 });
  expect(chat?.row).toEqual({
    kind: "chat",
    messages: [
      user,
      {
        role: "assistant",
        content: "",
        tool_calls: [{ type: "function", function: { name: "f", arguments: { x: 1 } } }],
      },
    ],
    tools: [{ name: "f" }],
  });
  expect(readRow({ messages: [user, good], tools: "[" }, "chat", {})).toBe("'tools' is not JSON");
  const parts = [
    {
      role: "assistant",
      content: [
        { type: "text", text: "a" },
        { type: "text", text: "b" },
      ],
    },
  ];
  expect(readRow({ messages: parts }, "chat", {})).toMatchObject({ messages: [{ content: "ab" }] });
  const named = detectLayout([{ q: "1", a: "2" }], { prompt: "q", completion: "a" });
  expect(named).toMatchObject({
    layout: "completion",
    confidence: 1,
    fields: { prompt: "q", completion: "a" },
  });
});

test("a guess says how many rows it fits; mixed rows lower it", () => {
  const guess = detectLayout([{ text: "a" }, { text: "" }, 3, { prompt: "p", completion: "c" }]);
  expect(guess).toMatchObject({ confidence: 0.25 });
  expect(guess?.alternatives).toHaveLength(1);
  expect(detectLayout([{ x: 1 }, null])).toBeUndefined();
  expect(detectLayout([{ question: "a", answer: "b", text: "c" }], {}, "text")).toMatchObject({
    layout: "text",
  });
});
