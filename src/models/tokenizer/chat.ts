import { Template } from "@huggingface/jinja";
import { TunesmithError } from "../../errors/index.js";
import type { Tokenizer } from "./types.js";

/** One turn of a conversation, in the shape that chat templates read. */
export interface ChatMessage {
  readonly role: string;
  readonly content: string;
  /** Further fields (`tool_calls`, `name`, `reasoning_content`, ...) reach the template as they are. */
  readonly [key: string]: unknown;
}

export interface RenderChatOptions {
  /** Ends the text where the assistant begins to speak. Default false. */
  readonly addGenerationPrompt?: boolean;
  /** JSON schemas of functions the assistant may call. */
  readonly tools?: readonly object[];
  /** A Jinja template instead of the tokenizer's own. */
  readonly template?: string;
  /** Further variables of the template (`enable_thinking`, ...). */
  readonly variables?: Readonly<Record<string, unknown>>;
  /** Which assistant turns get a span: all of them, or the last message only. Default `all`. */
  readonly spans?: "all" | "last" | "none";
}

export interface RenderedChat {
  readonly text: string;
  /** `[start, end)` of what the assistant says, in UTF-16 units of `text`, in order. */
  readonly spans: readonly (readonly [number, number])[];
}

/** A template for tokenizers that have none: plain words, each answer ended by the end-of-sequence token. */
export const PLAIN_CHAT_TEMPLATE =
  "{% for message in messages %}{{ message['role'] | capitalize + ':' }}{% if message['role'] == 'assistant' %}{% generation %}{{ ' ' + message['content'] + eos_token }}{% endgeneration %}{% else %}{{ ' ' + message['content'] }}{% endif %}{{ '\\n\\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}";

/**
 * Lays out a conversation as the model's chat template says, and finds what the assistant says in it, which is what
 * completion-only training learns. Templates with `{% generation %}` tags mark it themselves; for others each
 * assistant turn is what the text gains when it is added to the turns before it.
 *
 * Throws `config-invalid` when the tokenizer has no template or the template is wrong, `data-invalid` when the
 * template refuses the messages or rewrites earlier turns (then no span can be told).
 *
 * @example
 * ```ts
 * import { loadTokenizer, renderChat } from "tunesmith/models";
 * const tokenizer = await loadTokenizer("path/to/model");
 * const { text } = renderChat(tokenizer, [{ role: "user", content: "Hello" }], { addGenerationPrompt: true });
 * ```
 */
export function renderChat(
  tokenizer: Tokenizer,
  messages: readonly ChatMessage[],
  options: RenderChatOptions = {},
): RenderedChat {
  const source = options.template ?? tokenizer.chatTemplate;
  if (source === undefined) {
    throw new TunesmithError("config-invalid", "the tokenizer has no chat template", {
      fix: "pass `template` (PLAIN_CHAT_TEMPLATE is one), or use prompt/completion data",
    });
  }
  const render = renderer(source, tokenizer, options);
  const text = render(source, messages, options.addGenerationPrompt ?? false);
  const wanted = options.spans ?? "all";
  if (wanted === "none" || !messages.some(isAssistant)) return { text, spans: [] };
  const marked = GENERATION_TAG.test(source)
    ? markedSpans(source, messages, text, render, options)
    : undefined;
  const spans = marked ?? prefixSpans(source, messages, text, render, wanted);
  return { text, spans: wanted === "last" ? spans.slice(-1) : spans };
}

type Render = (source: string, messages: readonly ChatMessage[], addGenerationPrompt: boolean) => string;

const isAssistant = (message: ChatMessage) => message.role === "assistant";

/** Parsed templates by source text; a program uses few. */
const parsed = new Map<string, Template>();

function parseTemplate(source: string): Template {
  let template = parsed.get(source);
  if (!template) {
    try {
      template = new Template(source);
    } catch (cause) {
      throw new TunesmithError("config-invalid", `the chat template is wrong: ${(cause as Error).message}`, {
        fix: "correct the Jinja template",
        cause,
      });
    }
    if (parsed.size >= 32) parsed.clear();
    parsed.set(source, template);
  }
  return template;
}

function renderer(original: string, tokenizer: Tokenizer, options: RenderChatOptions): Render {
  const nameOf = (id: number | undefined) => (id === undefined ? "" : (tokenizer.idToToken(id) ?? ""));
  return (source, messages, addGenerationPrompt) => {
    try {
      return parseTemplate(source).render({
        bos_token: nameOf(tokenizer.bosId),
        eos_token: nameOf(tokenizer.eosId),
        pad_token: nameOf(tokenizer.padId),
        unk_token: nameOf(tokenizer.unkId),
        ...options.variables,
        messages: messages.map((message) => ({ ...message })),
        tools: options.tools ?? null,
        add_generation_prompt: addGenerationPrompt,
      });
    } catch (cause) {
      if (cause instanceof TunesmithError) throw cause;
      throw new TunesmithError(
        "data-invalid",
        `the chat template refuses the messages (roles ${messages.map((m) => m.role).join(", ")}): ${(cause as Error).message}`,
        {
          fix: "give the roles and the order that the model's template expects",
          cause,
          details: { original },
        },
      );
    }
  };
}

const GENERATION_TAG = /\{%-?\s*generation\s*-?%\}/;

/** Renders with marks instead of the `{% generation %}` tags; undefined when the marks change the text. */
function markedSpans(
  source: string,
  messages: readonly ChatMessage[],
  text: string,
  render: Render,
  options: RenderChatOptions,
): [number, number][] | undefined {
  // Private-use characters; should the text hold them itself, a longer mark cannot be in it.
  let mark = "\uF1A5";
  while (text.includes(mark)) mark += "\uF1A6";
  // An `if` block around the mark keeps the white-space rules of the tag it replaces.
  const replaced = source.replace(
    /\{%(-?)\s*(?:end)?generation\s*(-?)%\}/g,
    (_, left: string, right: string) => `{%${left} if true %}{{ '${mark}' }}{% endif ${right}%}`,
  );
  const parts = render(replaced, messages, options.addGenerationPrompt ?? false).split(mark);
  if (parts.join("") !== text || parts.length % 2 === 0) return undefined;
  const spans: [number, number][] = [];
  let at = 0;
  parts.forEach((part, index) => {
    if (index % 2 === 1) spans.push([at, at + part.length]);
    at += part.length;
  });
  return spans;
}

/** What each assistant turn adds to the text of the turns before it. */
function prefixSpans(
  source: string,
  messages: readonly ChatMessage[],
  text: string,
  render: Render,
  wanted: "all" | "last",
): [number, number][] {
  const spans: [number, number][] = [];
  const turns = messages.flatMap((message, index) => (isAssistant(message) ? [index] : []));
  for (const turn of wanted === "last" ? turns.slice(-1) : turns) {
    const before = render(source, messages.slice(0, turn), true);
    const after = render(source, messages.slice(0, turn + 1), false);
    if (!after.startsWith(before) || !text.startsWith(after)) {
      throw new TunesmithError(
        "data-invalid",
        `the chat template is not prefix stable: adding message ${turn} (assistant) changes the text before it`,
        {
          fix: "use a template with {% generation %} tags, or train on the last answer only (spans: 'last')",
          details: { turn, before: before.slice(-200), after: after.slice(-200) },
        },
      );
    }
    spans.push([before.length, after.length]);
  }
  return spans;
}
