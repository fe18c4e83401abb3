import { readFile } from "node:fs/promises";
import { expect, test } from "vitest";
import { type ChatMessage, PLAIN_CHAT_TEMPLATE, renderChat, type Tokenizer } from "./index.js";

interface ChatCase {
  name: string;
  template: string;
  messages: ChatMessage[];
  addGenerationPrompt: boolean;
  text: string;
}
const cases = JSON.parse(await readFile("fixtures/tokenizers/chat.json", "utf8")) as ChatCase[];

const names = ["<unk>", "<s>", "</s>"];
const tokenizer = {
  bosId: 1,
  eosId: 2,
  idToToken: (id: number) => names[id],
} as Partial<Tokenizer> as Tokenizer;

const said = (text: string, spans: readonly (readonly [number, number])[]) =>
  spans.map(([start, end]) => text.slice(start, end));

test("renders as jinja2 does", () => {
  for (const { name, template, messages, addGenerationPrompt, text } of cases) {
    expect(renderChat(tokenizer, messages, { template, addGenerationPrompt, spans: "none" }).text, name).toBe(
      text,
    );
  }
});

const long = cases.filter((item) => !item.addGenerationPrompt && item.messages.length === 5);
const conversation = (name: string) => {
  const found = long.find((item) => item.name === name);
  if (!found) throw new Error(`fixture has no ${name}`);
  return found;
};

test("finds answers by prefixes", () => {
  const chatml = conversation("chatml");
  const { text, spans } = renderChat(tokenizer, chatml.messages, { template: chatml.template });
  expect(said(text, spans)).toEqual([" 4 <|im_end|>\n", "6<|im_end|>\n"]);
  const llama = conversation("llama2");
  const other = renderChat(tokenizer, llama.messages, { template: llama.template });
  expect(said(other.text, other.spans)).toEqual([" 4 </s>", " 6 </s>"]);
  const last = renderChat(tokenizer, chatml.messages, { template: chatml.template, spans: "last" });
  expect(said(last.text, last.spans)).toEqual(["6<|im_end|>\n"]);
});

test("finds answers by generation tags, text unchanged", () => {
  const { template, messages, text } = conversation("blocks");
  const rendered = renderChat(tokenizer, messages, { template });
  expect(rendered.text).toBe(text);
  expect(said(rendered.text, rendered.spans)).toEqual(["4</a>", "6</a>"]);
});

test("the plain template ends answers with the end-of-sequence token", () => {
  const messages = [
    { role: "user", content: "Hi" },
    { role: "assistant", content: "Hello" },
  ];
  const { text, spans } = renderChat(tokenizer, messages, { template: PLAIN_CHAT_TEMPLATE });
  expect(text).toBe("User: Hi\n\nAssistant: Hello</s>\n\n");
  expect(said(text, spans)).toEqual([" Hello</s>"]);
});

test("a template that rewrites earlier turns is an error for all answers, not for the last", () => {
  // Keeps the reasoning of the last turn only, as reasoning models do.
  const template =
    "{% for m in messages %}{{ m.role + ':' + (m.content if loop.last or m.role == 'user' else m.content.split('|')[-1]) + ';' }}{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}";
  const messages = [
    { role: "user", content: "a" },
    { role: "assistant", content: "why|b" },
    { role: "user", content: "c" },
    { role: "assistant", content: "why|d" },
  ];
  expect(() => renderChat(tokenizer, messages, { template })).toThrow(/not prefix stable/);
  const { text, spans } = renderChat(tokenizer, messages, { template, spans: "last" });
  expect(said(text, spans)).toEqual(["why|d;"]);
});

test("names the problem", () => {
  const user = [{ role: "user", content: "a" }];
  expect(() => renderChat(tokenizer, user)).toThrow(/no chat template/);
  expect(() => renderChat(tokenizer, user, { template: "{% for %}" })).toThrow(/template is wrong/);
  const { template } = conversation("llama2");
  const twice = [...user, ...user];
  expect(() => renderChat(tokenizer, twice, { template })).toThrow(/roles must alternate/);
});

test("tools reach the template", () => {
  const template = "{{ tools[0].function.name }}{% for m in messages %}{{ m.content }}{% endfor %}";
  const options = { template, tools: [{ function: { name: "add" } }] };
  expect(renderChat(tokenizer, [{ role: "user", content: "!" }], options).text).toBe("add!");
});
