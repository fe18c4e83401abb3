import { float16ToFloat32 } from "../../half.js";

/** One block of bytes at `at` into numbers at `to`. */
type Unpack = (bytes: Uint8Array, at: number, out: Float32Array, to: number) => void;

const bits = new Uint16Array(1);
const value = new Float32Array(1);

function half(bytes: Uint8Array, at: number): number {
  bits[0] = byte(bytes, at) | (byte(bytes, at + 1) << 8);
  return float16ToFloat32(bits, value)[0] as number;
}

const byte = (bytes: Uint8Array, at: number): number => bytes[at] as number;
const signed = (bytes: Uint8Array, at: number): number => (byte(bytes, at) << 24) >> 24;

/** 32 values of 4 bits: low nibbles are the first half, high nibbles the second. `high(j)` gives a fifth bit. */
function nibbles(
  bytes: Uint8Array,
  at: number,
  each: (index: number, quant: number) => void,
  high?: number,
): void {
  for (let j = 0; j < 16; j++) {
    const pair = byte(bytes, at + j);
    const fifth = high === undefined ? 0 : ((high >>> j) & 1) << 4;
    const fifthHigh = high === undefined ? 0 : ((high >>> (j + 16)) & 1) << 4;
    each(j, (pair & 15) | fifth);
    each(j + 16, (pair >> 4) | fifthHigh);
  }
}

const word = (bytes: Uint8Array, at: number): number =>
  byte(bytes, at) | (byte(bytes, at + 1) << 8) | (byte(bytes, at + 2) << 16) | (byte(bytes, at + 3) << 24);

const q4_0: Unpack = (bytes, at, out, to) => {
  const d = half(bytes, at);
  nibbles(bytes, at + 2, (j, q) => {
    out[to + j] = (q - 8) * d;
  });
};

const q4_1: Unpack = (bytes, at, out, to) => {
  const [d, m] = [half(bytes, at), half(bytes, at + 2)];
  nibbles(bytes, at + 4, (j, q) => {
    out[to + j] = q * d + m;
  });
};

const q5_0: Unpack = (bytes, at, out, to) => {
  const d = half(bytes, at);
  const store = (j: number, q: number) => {
    out[to + j] = (q - 16) * d;
  };
  nibbles(bytes, at + 6, store, word(bytes, at + 2));
};

const q5_1: Unpack = (bytes, at, out, to) => {
  const [d, m] = [half(bytes, at), half(bytes, at + 2)];
  const store = (j: number, q: number) => {
    out[to + j] = q * d + m;
  };
  nibbles(bytes, at + 8, store, word(bytes, at + 4));
};

const q8_0: Unpack = (bytes, at, out, to) => {
  const d = half(bytes, at);
  for (let j = 0; j < 32; j++) out[to + j] = signed(bytes, at + 2 + j) * d;
};

const q2_k: Unpack = (bytes, at, out, to) => {
  const [d, dmin] = [half(bytes, at + 80), half(bytes, at + 82)];
  for (let j = 0; j < 256; j++) {
    const scale = byte(bytes, at + (j >> 4));
    const q = (byte(bytes, at + 16 + (j >> 7) * 32 + (j & 31)) >> (2 * ((j >> 5) & 3))) & 3;
    out[to + j] = d * (scale & 15) * q - dmin * (scale >> 4);
  }
};

/** The 16 scales of 6 bits, minus 32, of Q3_K: low halves in 8 bytes, high pairs of bits in 4. */
function scaleOfQ3(bytes: Uint8Array, at: number, index: number): number {
  const low = (byte(bytes, at + (index & 7)) >> (index < 8 ? 0 : 4)) & 15;
  const high = (byte(bytes, at + 8 + (index & 3)) >> (2 * (index >> 2))) & 3;
  return (low | (high << 4)) - 32;
}

const q3_k: Unpack = (bytes, at, out, to) => {
  const d = half(bytes, at + 108);
  for (let j = 0; j < 256; j++) {
    const q = (byte(bytes, at + 32 + (j >> 7) * 32 + (j & 31)) >> (2 * ((j >> 5) & 3))) & 3;
    const high = (byte(bytes, at + (j & 31)) >> (j >> 5)) & 1;
    out[to + j] = d * scaleOfQ3(bytes, at + 96, j >> 4) * (q - (high === 0 ? 4 : 0));
  }
};

/** Scale and minimum, 6 bits each, of one of the eight groups of Q4_K and Q5_K. */
function scaleAndMin(bytes: Uint8Array, at: number, group: number): [number, number] {
  if (group < 4) return [byte(bytes, at + group) & 63, byte(bytes, at + group + 4) & 63];
  const shared = byte(bytes, at + group + 4);
  const scale = (shared & 15) | ((byte(bytes, at + group - 4) >> 6) << 4);
  return [scale, (shared >> 4) | ((byte(bytes, at + group) >> 6) << 4)];
}

const q4_k: Unpack = (bytes, at, out, to) => {
  const [d, dmin] = [half(bytes, at), half(bytes, at + 2)];
  for (let group = 0; group < 8; group++) {
    const [scale, min] = scaleAndMin(bytes, at + 4, group);
    for (let j = 0; j < 32; j++) {
      const pair = byte(bytes, at + 16 + (group >> 1) * 32 + j);
      const q = (group & 1) === 0 ? pair & 15 : pair >> 4;
      out[to + group * 32 + j] = d * scale * q - dmin * min;
    }
  }
};

const q5_k: Unpack = (bytes, at, out, to) => {
  const [d, dmin] = [half(bytes, at), half(bytes, at + 2)];
  for (let group = 0; group < 8; group++) {
    const [scale, min] = scaleAndMin(bytes, at + 4, group);
    for (let j = 0; j < 32; j++) {
      const pair = byte(bytes, at + 48 + (group >> 1) * 32 + j);
      const fifth = (byte(bytes, at + 16 + j) >> group) & 1;
      const q = ((group & 1) === 0 ? pair & 15 : pair >> 4) | (fifth << 4);
      out[to + group * 32 + j] = d * scale * q - dmin * min;
    }
  }
};

const q6_k: Unpack = (bytes, at, out, to) => {
  const d = half(bytes, at + 208);
  for (let j = 0; j < 256; j++) {
    const part = j >> 7;
    const quarter = (j >> 5) & 3;
    const pair = byte(bytes, at + part * 64 + (j & 31) + (quarter & 1) * 32);
    const low = quarter < 2 ? pair & 15 : pair >> 4;
    const high = (byte(bytes, at + 128 + part * 32 + (j & 31)) >> (2 * quarter)) & 3;
    out[to + j] = d * signed(bytes, at + 192 + (j >> 4)) * ((low | (high << 4)) - 32);
  }
};

const UNPACK: Readonly<Record<string, Unpack>> = {
  Q4_0: q4_0,
  Q4_1: q4_1,
  Q5_0: q5_0,
  Q5_1: q5_1,
  Q8_0: q8_0,
  Q2_K: q2_k,
  Q3_K: q3_k,
  Q4_K: q4_k,
  Q5_K: q5_k,
  Q6_K: q6_k,
};

/**
 * Blocks of a quantised GGML type as float32.
 *
 * @param type Name of the type, such as `Q4_K`; undefined is returned for one that is not known.
 */
export function dequantise(
  type: string,
  bytes: Uint8Array,
  block: { readonly block: number; readonly bytes: number },
): Float32Array | undefined {
  const unpack = UNPACK[type];
  if (!unpack) return undefined;
  const blocks = Math.floor(bytes.byteLength / block.bytes);
  const out = new Float32Array(blocks * block.block);
  for (let i = 0; i < blocks; i++) unpack(bytes, i * block.bytes, out, i * block.block);
  return out;
}
