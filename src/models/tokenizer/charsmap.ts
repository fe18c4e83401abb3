import { TunesmithError } from "../../errors/index.js";

/**
 * SentencePiece's compiled normalisation rules: a double-array trie (darts-clone) over UTF-8 bytes whose values are
 * offsets into a list of zero-terminated replacements. The longest rule at each position applies; a character
 * without a rule stays.
 *
 * @param blob `normalizer_spec.precompiled_charsmap`: byte length of the trie, trie, replacements.
 * @param name Names the file in errors.
 * Throws `file-corrupt` when the trie does not fit the blob.
 */
export function charsmapNormalizer(blob: Uint8Array, name: string): (text: string) => string {
  const rules = rulesOf(blob, name);
  if (!rules) return (text) => text;
  return (text) => {
    const bytes = encoder.encode(text);
    const output: number[] = [];
    for (let at = 0; at < bytes.length; ) {
      const match = matches(rules.units, bytes, at).at(-1);
      if (match) {
        pushReplacement(rules, match.value, output);
        at += match.length;
      } else {
        const end = at + charLength(bytes[at] ?? 0);
        while (at < end && at < bytes.length) output.push(bytes[at++] ?? 0);
      }
    }
    return decoder.decode(Uint8Array.from(output));
  };
}

/**
 * The same rules as Hugging Face's Rust library applies them: to whole user-perceived characters of under 6 bytes, else
 * to single ones, and the shortest rule wins, for all of what it was asked about.
 */
export function firstMatchNormalizer(blob: Uint8Array, name: string): (text: string) => string {
  const rules = rulesOf(blob, name);
  if (!rules) return (text) => text;
  const graphemes = new Intl.Segmenter("en", { granularity: "grapheme" });
  const replaced = (part: string): string | undefined => {
    const match = matches(rules.units, encoder.encode(part), 0)[0];
    if (!match) return undefined;
    const output: number[] = [];
    pushReplacement(rules, match.value, output);
    return decoder.decode(Uint8Array.from(output));
  };
  return (text) => {
    let result = "";
    for (const { segment } of graphemes.segment(text)) {
      const whole = encoder.encode(segment).length < 6 ? replaced(segment) : undefined;
      result += whole ?? Array.from(segment, (char) => replaced(char) ?? char).join("");
    }
    return result;
  };
}

interface Rules {
  readonly units: Uint32Array;
  readonly replacements: Uint8Array;
}

const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { ignoreBOM: true });

function rulesOf(blob: Uint8Array, name: string): Rules | undefined {
  if (blob.length === 0) return undefined;
  const view = new DataView(blob.buffer, blob.byteOffset, blob.byteLength);
  const trieBytes = blob.length >= 4 ? view.getUint32(0, true) : 0;
  if (trieBytes === 0 || trieBytes % 4 !== 0 || 4 + trieBytes > blob.length) {
    throw new TunesmithError("file-corrupt", `${name}: the normalisation table does not fit its length`, {
      fix: "download or export the tokenizer model again",
    });
  }
  const units = Uint32Array.from({ length: trieBytes / 4 }, (_, index) =>
    view.getUint32(4 + 4 * index, true),
  );
  return { units, replacements: blob.subarray(4 + trieBytes) };
}

function pushReplacement({ replacements }: Rules, from: number, output: number[]): void {
  for (let at = from; at < replacements.length && replacements[at] !== 0; at++) {
    output.push(replacements[at] ?? 0);
  }
}

function charLength(lead: number): number {
  if (lead < 0x80) return 1;
  if (lead < 0xe0) return 2;
  return lead < 0xf0 ? 3 : 4;
}

/** Rules that match at `start`, shortest first. */
function matches(
  units: Uint32Array,
  bytes: Uint8Array,
  start: number,
): { readonly value: number; readonly length: number }[] {
  let node = offsetOf(units[0] ?? 0);
  const found: { value: number; length: number }[] = [];
  for (let at = start; at < bytes.length; at++) {
    const byte = bytes[at] ?? 0;
    node ^= byte;
    const unit = units[node];
    if (byte === 0 || unit === undefined || (unit & 0x800000ff) !== byte) break;
    node ^= offsetOf(unit);
    if ((unit >>> 8) & 1) found.push({ value: (units[node] ?? 0) & 0x7fffffff, length: at - start + 1 });
  }
  return found;
}

function offsetOf(unit: number): number {
  return (unit >>> 10) << ((unit & 0x200) >>> 6);
}
