import { TunesmithError } from "../../errors/index.js";
import { GPT2_PATTERN_SOURCE } from "./byte-level.js";

/** A part of a tokenizer.json: `type` and whatever that type needs. */
export interface Part {
  type?: string;
  [key: string]: unknown;
}

/**
 * Rewrites pre-tokenizers into equal `Split` steps where the JavaScript library's own version differs from the
 * original (its `\w`, `\d` and `\s` are not Unicode's, its `Punctuation` always joins neighbours).
 *
 * Throws `tokenizer-unsupported` for steps that the library would get wrong with no such rewrite.
 */
export function exactPreTokenizer(part: Part | null, normalizer: Part | null): Part | null {
  if (!part) return null;
  switch (part.type) {
    case "Sequence":
      return {
        ...part,
        pretokenizers: parts(part.pretokenizers).map((step) => exactPreTokenizer(step, normalizer)),
      };
    case "ByteLevel":
      // With a prefix space the pattern must see that space, which a Split before it would not.
      if (part.use_regex === false || part.add_prefix_space === true) return part;
      return {
        type: "Sequence",
        pretokenizers: [isolated(GPT2_PATTERN_SOURCE), { ...part, use_regex: false }],
      };
    case "Whitespace":
      return { type: "Split", pattern: { Regex: "\\w+|[^\\w\\s]+" }, behavior: "Removed", invert: true };
    case "WhitespaceSplit":
      return removed("\\p{White_Space}");
    case "BertPreTokenizer":
      return {
        type: "Sequence",
        pretokenizers: [removed("\\p{White_Space}"), isolated(PUNCTUATION)],
      };
    case "Digits":
      return isolated(part.individual_digits ? "\\p{N}" : "\\p{N}+");
    case "Punctuation":
      return part.behavior === undefined || part.behavior === "Isolated" ? isolated(PUNCTUATION) : part;
    case "Split":
      return checkedSplit(part, normalizer);
    default:
      return part;
  }
}

/** Unicode's punctuation, and all of ASCII's signs. */
const PUNCTUATION = "[\\p{P}\\x21-\\x2F\\x3A-\\x40\\x5B-\\x60\\x7B-\\x7E]";

function removed(pattern: string): Part {
  return { type: "Split", pattern: { Regex: pattern }, behavior: "Removed", invert: false };
}

function isolated(pattern: string): Part {
  return { type: "Split", pattern: { Regex: pattern }, behavior: "Isolated", invert: false };
}

function checkedSplit(part: Part, normalizer: Part | null): Part {
  const behavior = String(part.behavior ?? "Isolated").toLowerCase();
  if (behavior === "isolated" || behavior === "removed") return part;
  // Gemma splits at spaces that its normaliser has already replaced: the step does nothing.
  const pattern = (part.pattern as { String?: string } | undefined)?.String;
  if (pattern !== undefined && replaces(normalizer, pattern)) return part;
  throw new TunesmithError(
    "tokenizer-unsupported",
    `tokenizer.json: pre_tokenizer Split with behavior '${part.behavior}' is not supported`,
    { fix: "use a tokenizer whose Split steps are 'Isolated' or 'Removed'", details: { part } },
  );
}

function replaces(normalizer: Part | null, text: string): boolean {
  if (!normalizer) return false;
  if (normalizer.type === "Sequence")
    return parts(normalizer.normalizers).some((step) => replaces(step, text));
  return (
    normalizer.type === "Replace" && (normalizer.pattern as { String?: string } | undefined)?.String === text
  );
}

/**
 * The same tokenizer for a text that continues another one: nothing is put before it. The argument itself comes
 * back when it puts nothing there anyway.
 */
export function withoutPrefix(json: Part): Part {
  const normalizer = dropPrefix(json.normalizer as Part | null);
  const preTokenizer = dropPrefix(json.pre_tokenizer as Part | null);
  if (normalizer === json.normalizer && preTokenizer === json.pre_tokenizer) return json;
  return { ...json, normalizer, pre_tokenizer: preTokenizer };
}

function dropPrefix(part: Part | null): Part | null {
  if (!part) return null;
  if (part.type === "Prepend") return null;
  if (part.type === "Metaspace" && part.prepend_scheme !== "never") {
    return { ...part, prepend_scheme: "never", add_prefix_space: false };
  }
  if (part.type === "ByteLevel" && part.add_prefix_space === true) {
    return exactPreTokenizer({ ...part, add_prefix_space: false }, null);
  }
  for (const key of ["normalizers", "pretokenizers"]) {
    if (!Array.isArray(part[key])) continue;
    const old = parts(part[key]);
    const steps = old.map(dropPrefix);
    if (steps.some((step, index) => step !== old[index])) {
      return { ...part, [key]: steps.filter((step) => step !== null) };
    }
  }
  return part;
}

function parts(value: unknown): Part[] {
  return Array.isArray(value) ? (value as Part[]) : [];
}
