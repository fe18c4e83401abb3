import { firstMatchNormalizer } from "./charsmap.js";
import type { Part } from "./compat.js";

type Normalize = (text: string) => string;

/** A step of the library: callable, with its own steps when it is a sequence. */
interface LibraryStep {
  normalize: Normalize;
  readonly normalizers?: readonly (LibraryStep | null)[];
}

/**
 * What a tokenizer.json's normaliser does, exactly. The JavaScript library approximates two of them: it replaces compiled
 * rules by Unicode's NFKC, and its version of BERT's goes by UTF-16 units. Undefined where its own is right.
 *
 * @param own The library's version of the same part.
 */
export function exactNormalizer(part: Part | null, own: unknown): Normalize | undefined {
  if (part?.type === "BertNormalizer") return bertNormalizer(part);
  if (part?.type === "Precompiled") {
    const charsmap = Uint8Array.from(atob(String(part.precompiled_charsmap ?? "")), (char) =>
      char.charCodeAt(0),
    );
    return firstMatchNormalizer(charsmap, "tokenizer.json");
  }
  if (part?.type !== "Sequence" || !Array.isArray(part.normalizers)) return undefined;
  const library = (own as LibraryStep).normalizers ?? [];
  const exact = (part.normalizers as Part[]).map((step, at) => exactNormalizer(step, library[at]));
  if (exact.every((step) => step === undefined)) return undefined;
  const steps = exact.map((step, at) => step ?? ((text: string) => library[at]?.normalize(text) ?? text));
  return (text) => steps.reduce((result, step) => step(result), text);
}

const CONTROL = /[\p{C}\uFFFD]/u;
const KEPT = new Set(["\t", "\n", "\r"]);
const SPACE = /\p{White_Space}/gu;
/** The blocks that BERT takes for Chinese, one word per character. */
const CHINESE =
  /[\u4E00-\u9FFF\u3400-\u4DBF\u{20000}-\u{2A6DF}\u{2A700}-\u{2B73F}\u{2B740}-\u{2B81F}\u{2B920}-\u{2CEAF}\uF900-\uFAFF\u{2F800}-\u{2FA1F}]/gu;

function bertNormalizer(part: Part): Normalize {
  const lowercase = part.lowercase !== false;
  const strip = part.strip_accents ?? lowercase;
  return (text) => {
    let result = text;
    if (part.clean_text !== false) {
      const kept = Array.from(result).filter((char) => KEPT.has(char) || !CONTROL.test(char));
      result = kept.join("").replace(SPACE, " ");
    }
    if (part.handle_chinese_chars !== false) result = result.replace(CHINESE, " $& ");
    if (strip) result = result.normalize("NFD").replace(/\p{Mn}/gu, "");
    // By character: a final sigma is no special case.
    return lowercase ? Array.from(result, (char) => char.toLowerCase()).join("") : result;
  };
}
