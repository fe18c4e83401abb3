/** Bits of a code that can be packed. */
export type CodeBits = 2 | 3 | 4 | 8;

/** Bytes of `count` codes: codes of 3 bits come in groups of 8, others fill their bytes. */
export const codeBytes = (count: number, bits: CodeBits): number =>
  bits === 3 ? 3 * Math.ceil(count / 8) : Math.ceil((count * bits) / 8);

/**
 * Codes below 2^bits, packed lowest bits first. Codes of 3 bits lie in two planes, so that a table of 12 bits reads four at a
 * time: first the two low bits of each (4 a byte), then the high bits (8 a byte).
 */
export function packCodes(codes: ArrayLike<number>, bits: CodeBits): Uint8Array {
  const bytes = new Uint8Array(codeBytes(codes.length, bits));
  if (bits !== 3) {
    put(bytes, 0, codes, bits, (code) => code);
    return bytes;
  }
  put(bytes, 0, codes, 2, (code) => code & 3);
  put(bytes, highPlane(codes.length), codes, 1, (code) => code >> 2);
  return bytes;
}

/** Where the plane of high bits of 3-bit codes begins. */
export const highPlane = (count: number): number => 2 * Math.ceil(count / 8);

function put(
  bytes: Uint8Array,
  from: number,
  codes: ArrayLike<number>,
  width: number,
  part: (code: number) => number,
): void {
  for (let at = 0; at < codes.length; at++) {
    const bit = at * width;
    const place = from + (bit >> 3);
    bytes[place] = (bytes[place] as number) | (part(codes[at] as number) << (bit & 7));
  }
}

/** The codes behind `packCodes`. */
export function unpackCodes(bytes: Uint8Array, count: number, bits: CodeBits): Uint8Array {
  const codes = new Uint8Array(count);
  const width = bits === 3 ? 2 : bits;
  const mask = 2 ** width - 1;
  for (let at = 0; at < count; at++)
    codes[at] = ((bytes[(at * width) >> 3] as number) >> ((at * width) & 7)) & mask;
  if (bits !== 3) return codes;
  const high = highPlane(count);
  for (let at = 0; at < count; at++)
    codes[at] = (codes[at] as number) | ((((bytes[high + (at >> 3)] as number) >> (at & 7)) & 1) << 2);
  return codes;
}
