import type { DecodeStream } from "./types.js";

/** Tokens kept for context before the window moves on although a character never ended. */
const MAX_WINDOW = 64;

/**
 * Streams any decoder: decodes a short window of tokens each time and gives out what is new. The window keeps the
 * last emitted tokens as context, because decoders treat a first token differently (they drop its space). A
 * trailing U+FFFD may be the start of a character and waits for the next token.
 *
 * @param decode Text of a run of ids, none of them to be skipped.
 * @param skips Ids that give no text.
 */
export function streamDecoder(decode: (ids: number[]) => string, skips: ReadonlySet<number>): DecodeStream {
  let window: number[] = [];
  let contextLength = 0;
  let emitted = 0;
  const advance = (text: string) => {
    window = window.slice(contextLength);
    contextLength = window.length;
    emitted = window.length === 0 ? 0 : decode(window).length;
    return text;
  };
  return {
    push(id) {
      if (skips.has(id)) return "";
      window.push(id);
      const text = decode(window);
      if (!text.endsWith("\uFFFD") || window.length > MAX_WINDOW) return advance(text.slice(emitted));
      const fresh = text.slice(emitted, -1);
      emitted += fresh.length;
      return fresh;
    },
    end() {
      const rest = window.length > contextLength ? decode(window).slice(emitted) : "";
      window = [];
      contextLength = 0;
      emitted = 0;
      return rest;
    },
  };
}
