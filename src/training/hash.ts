/** FNV-1a over 32-bit words, as eight hex digits: tells data sets apart, against mistakes only. */
export function hashWords(words: () => Iterable<number>): string {
  let hash = 0x811c9dc5 | 0;
  for (const word of words()) hash = Math.imul(hash ^ word, 0x01000193);
  return (hash >>> 0).toString(16).padStart(8, "0");
}
