/** Bins of a signature, and how they are grouped: two texts are compared when all five of one group are equal. */
export const BINS = 60;
export const GROUPS = 12;
export const GROUP_BINS = BINS / GROUPS;
/** Fewer phrases than this say too little about a text. */
const FEWEST_PHRASES = 8;

/** What rows are compared by. Written over by the next text: copy what is to be kept. */
export interface Fingerprint {
  /** Hash of the text as it is, 64 bits. */
  high: number;
  low: number;
  /** `[BINS]` 8-bit values of the one-permutation MinHash over phrases of three words. */
  readonly signature: Uint8Array;
  /** False when the text is too short to be compared by its signature. */
  comparable: boolean;
}

/** Mixes all bits (the finaliser of MurmurHash3). */
export function mix(value: number): number {
  let hash = value ^ (value >>> 16);
  hash = Math.imul(hash, 0x85ebca6b);
  hash ^= hash >>> 13;
  hash = Math.imul(hash, 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}

/**
 * A function that takes fingerprints: exact by content, near by the share of phrases of three words that two texts have
 * in common (case and punctuation do not count). MinHash by one permutation (Li, Owen and Zhang, arXiv 1208.1259) with empty
 * bins filled from the next one (Shrivastava and Li, arXiv 1406.4784).
 */
export function fingerprinter(): (text: string) => Fingerprint {
  const least = new Uint32Array(BINS);
  const result: Fingerprint = { high: 0, low: 0, signature: new Uint8Array(BINS), comparable: false };
  return (text) => {
    least.fill(0xffffffff);
    let [high, low] = [0x811c9dc5, 0x9747b28c];
    let [first, second, word, inWord, words] = [0, 0, 0, false, 0];
    const endWord = () => {
      words++;
      if (words >= 3) {
        const phrase = mix(Math.imul(first, 0x9e3779b1) ^ Math.imul(second, 0x85ebca77) ^ word);
        const bin = Math.floor((phrase / 2 ** 32) * BINS);
        const value = mix(phrase ^ 0x5bd1e995);
        if (value < (least[bin] as number)) least[bin] = value;
      }
      first = second;
      second = word;
      word = 0;
      inWord = false;
    };
    for (let at = 0; at < text.length; at++) {
      const code = text.charCodeAt(at);
      high = Math.imul(high ^ code, 0x01000193);
      low = Math.imul(low ^ code, 0x5bd1e995) ^ (low >>> 15);
      if ((code >= 97 && code <= 122) || (code >= 48 && code <= 57)) {
        word = Math.imul(word ^ code, 0x01000193);
        inWord = true;
      } else if (code >= 65 && code <= 90) {
        word = Math.imul(word ^ (code + 32), 0x01000193);
        inWord = true;
      } else if (code < 128) {
        if (inWord) endWord();
      } else {
        word = Math.imul(word ^ code, 0x01000193);
        inWord = true;
        // Writing without spaces: each sign is a word.
        if (code >= 0x3040 && code <= 0xd7a3) endWord();
      }
    }
    if (inWord) endWord();
    result.high = mix(high);
    result.low = mix(low ^ text.length);
    result.comparable = words >= FEWEST_PHRASES + 2;
    if (result.comparable) fill(least, result.signature);
    return result;
  };
}

function fill(least: Uint32Array, signature: Uint8Array): void {
  for (let bin = 0; bin < BINS; bin++) {
    let step = 0;
    while (least[(bin + step) % BINS] === 0xffffffff && step < BINS) step++;
    const value = least[(bin + step) % BINS] as number;
    signature[bin] = (step === 0 ? value : mix(value + Math.imul(step, 0x9e3779b1))) & 0xff;
  }
}

/** The estimated share of phrases in common of two signatures, `[BINS]` each at the given offsets. */
export function similarity(a: Uint8Array, atA: number, b: Uint8Array, atB: number): number {
  let equal = 0;
  for (let bin = 0; bin < BINS; bin++) if (a[atA + bin] === b[atB + bin]) equal++;
  // Eight bits are equal by chance once in 256.
  return (equal / BINS - 1 / 256) / (1 - 1 / 256);
}
