/**
 * The word pattern of GPT-2. White space is Unicode's property, as in the regular expressions of the original:
 * JavaScript's `\s` would add U+FEFF and leave out U+0085.
 */
export const GPT2_PATTERN =
  /'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\p{White_Space}\p{L}\p{N}]+|\p{White_Space}+(?!\P{White_Space})|\p{White_Space}+/gu;

/** The same pattern as tokenizer.json files write it. */
export const GPT2_PATTERN_SOURCE =
  "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/**
 * The printable character that byte-level vocabularies write for each byte: itself where it is printable, else
 * the next free code point from U+0100 on.
 */
export const BYTE_TO_CHAR: readonly string[] = byteChars();

function byteChars(): string[] {
  let next = 256;
  return Array.from({ length: 256 }, (_, byte) => {
    const printable = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    return String.fromCharCode(printable ? byte : next++);
  });
}
