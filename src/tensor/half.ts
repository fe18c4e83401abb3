/**
 * Conversions between float32 and the two half formats, on raw bits. To half they round to nearest, ties to
 * even; subnormals, infinities and the sign of zero are kept, a NaN stays a (quiet) NaN.
 */

const float = new Float32Array(1);
const word = new Uint32Array(float.buffer);

let halfTable: Uint32Array | undefined;

/** Float32 bits of all 65,536 float16 values: 256 KiB, built on first use. */
function float16Table(): Uint32Array {
  if (halfTable !== undefined) return halfTable;
  const filled = new Uint32Array(65536);
  for (let half = 0; half < 65536; half++) {
    const sign = (half & 0x8000) << 16;
    const exponent = (half >>> 10) & 31;
    const mantissa = half & 0x3ff;
    if (exponent === 31) filled[half] = sign | 0x7f800000 | (mantissa << 13);
    else if (exponent > 0) filled[half] = sign | ((exponent + 112) << 23) | (mantissa << 13);
    else {
      float[0] = mantissa * 2 ** -24;
      filled[half] = sign | (word[0] as number);
    }
  }
  halfTable = filled;
  return filled;
}

function wordsOf(array: Float32Array): Uint32Array {
  return new Uint32Array(array.buffer, array.byteOffset, array.length);
}

/** float16 bits to numbers. @param out Receives the result; a new array by default. */
export function float16ToFloat32(bits: Uint16Array, out = new Float32Array(bits.length)): Float32Array {
  const lookup = float16Table();
  const words = wordsOf(out);
  for (let i = 0; i < bits.length; i++) words[i] = lookup[bits[i] as number] as number;
  return out;
}

/** bfloat16 bits to numbers. @param out Receives the result; a new array by default. */
export function bfloat16ToFloat32(bits: Uint16Array, out = new Float32Array(bits.length)): Float32Array {
  const words = wordsOf(out);
  for (let i = 0; i < bits.length; i++) words[i] = (bits[i] as number) << 16;
  return out;
}

/** Numbers to float16 bits. @param out Receives the result; a new array by default. */
export function float32ToFloat16(values: Float32Array, out = new Uint16Array(values.length)): Uint16Array {
  const words = wordsOf(values);
  for (let i = 0; i < words.length; i++) out[i] = float16Bits(words[i] as number);
  return out;
}

/** Numbers to bfloat16 bits. @param out Receives the result; a new array by default. */
export function float32ToBfloat16(values: Float32Array, out = new Uint16Array(values.length)): Uint16Array {
  const words = wordsOf(values);
  for (let i = 0; i < words.length; i++) {
    const x = words[i] as number;
    if ((x & 0x7fffffff) > 0x7f800000) out[i] = (x >>> 16) | 0x40;
    else out[i] = (x + 0x7fff + ((x >>> 16) & 1)) >>> 16;
  }
  return out;
}

function float16Bits(x: number): number {
  const sign = (x >>> 16) & 0x8000;
  const magnitude = x & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00 | ((magnitude >>> 13) & 0x3ff);
  if (magnitude >= 0x47800000) return sign | 0x7c00;
  if (magnitude < 0x38800000) {
    // Subnormal: adding 0.5 makes the float32 unit rounds the sum to the 2^-24 grid of float16's subnormals.
    word[0] = magnitude;
    float[0] = (float[0] as number) + 0.5;
    return sign | ((word[0] as number) - 0x3f000000);
  }
  // Rebias the exponent by 127 - 15 and round half to even; a carry may rightly reach infinity.
  return sign | ((magnitude - 0x38000000 + 0xfff + ((magnitude >>> 13) & 1)) >>> 13);
}
