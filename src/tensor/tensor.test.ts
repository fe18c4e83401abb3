import { expect, test } from "vitest";
import { TunesmithError } from "../errors/index.js";
import {
  byteLengthOf,
  bytesOf,
  castTensor,
  type Dtype,
  dtypeFromOnnx,
  dtypeInfo,
  dtypes,
  dtypeToOnnx,
  elementCount,
  fillInt64FromInt32,
  float16ToFloat32,
  float32ToFloat16,
  fromBytes,
  int64FromNumbers,
  maxAbsDiff,
  numbersFromInt64,
  packInt4,
  reshape,
  rows,
  scalar,
  type Tensor,
  tensor,
  tensorsEqual,
  toFloat32,
  unpackInt4,
  zeros,
} from "./index.js";

function codeOf(run: () => unknown): string {
  try {
    run();
  } catch (error) {
    if (error instanceof TunesmithError && error.fix) return error.code;
    throw error;
  }
  throw new Error("nothing was thrown");
}

const values = (t: Tensor) => [...toFloat32(t)];

test("every dtype knows its sizes and its ONNX code", () => {
  expect(new Set(dtypes.map(dtypeToOnnx)).size).toBe(dtypes.length);
  for (const dtype of dtypes) {
    expect(dtypeFromOnnx(dtypeToOnnx(dtype))).toBe(dtype);
    const { array, bits } = dtypeInfo(dtype);
    if (array && bits >= 8) expect(array.BYTES_PER_ELEMENT * 8).toBe(bits);
  }
  expect(byteLengthOf("int4", 5)).toBe(3);
  expect(byteLengthOf("bfloat16", 5)).toBe(10);
  expect(codeOf(() => byteLengthOf("string", 1))).toBe("dtype-unsupported");
  expect(codeOf(() => dtypeFromOnnx(14))).toBe("dtype-unsupported");
});

test("tensor() takes typed data as it is and converts values", () => {
  const data = new Float32Array(6);
  expect(tensor("float32", [2, 3], data).data).toBe(data);
  expect(tensor("float16", [2], [1, -2]).data).toEqual(Uint16Array.of(0x3c00, 0xc000));
  expect(tensor("bfloat16", [2], [1, -2]).data).toEqual(Uint16Array.of(0x3f80, 0xc000));
  expect(tensor("int64", [2], [-1, 2n]).data).toEqual(BigInt64Array.of(-1n, 2n));
  expect(tensor("bool", [2], [true, false]).data).toEqual(Uint8Array.of(1, 0));
  expect(tensor("uint4", [3], [1, 15, 2]).data).toEqual(Uint8Array.of(0xf1, 2));
  expect(tensor("string", [1], ["a"]).data).toEqual(["a"]);
  expect(scalar(3n, "int64")).toEqual({ dtype: "int64", shape: [], data: BigInt64Array.of(3n) });
  expect(zeros("int4", [3, 3]).data).toEqual(new Uint8Array(5));
  expect(zeros("string", [2]).data).toEqual(["", ""]);
});

test("tensor() refuses data that does not fit", () => {
  expect(codeOf(() => tensor("float32", [2], new Float32Array(3)))).toBe("shape-mismatch");
  expect(codeOf(() => tensor("float32", [2], new Float64Array(2)))).toBe("dtype-unsupported");
  expect(codeOf(() => tensor("uint8", [1], [256]))).toBe("dtype-unsupported");
  expect(codeOf(() => tensor("int32", [1], [0.5]))).toBe("dtype-unsupported");
  expect(codeOf(() => tensor("int64", [1], [2 ** 53]))).toBe("dtype-unsupported");
  expect(codeOf(() => tensor("int4", [1], [8]))).toBe("dtype-unsupported");
  expect(codeOf(() => tensor("string", [1], [1]))).toBe("dtype-unsupported");
  for (const shape of [[-1], [1.5], [2 ** 40, 2 ** 40], [Number.NaN]]) {
    expect(codeOf(() => elementCount(shape))).toBe("shape-mismatch");
  }
  expect(codeOf(() => zeros("float32", [2 ** 50]))).toBe("out-of-memory");
});

test("views share memory", () => {
  const t = tensor("float32", [3, 2], [0, 1, 2, 3, 4, 5]);
  const data = t.data as Float32Array;
  const part = rows(t, 1, 3);
  expect(part.shape).toEqual([2, 2]);
  data[2] = 20;
  expect(values(part)).toEqual([20, 3, 4, 5]);
  expect(reshape(t, [2, -1])).toEqual({ dtype: "float32", shape: [2, 3], data });
  expect(reshape(t, [6]).data).toBe(data);
  expect(bytesOf(part).buffer).toBe(data.buffer);
  expect(bytesOf(part).byteLength).toBe(16);
  const int4 = tensor("int4", [3, 2], [0, 1, 2, 3, -4, 5]);
  expect(rows(int4, 1, 3).data).toEqual(packInt4([2, 3, -4, 5], true));
  expect(codeOf(() => rows(tensor("int4", [2, 3], [0, 1, 2, 3, 4, 5]), 1, 2))).toBe("shape-mismatch");
  for (const [start, end] of [
    [0, 4],
    [-1, 2],
    [2, 1],
  ] as const) {
    expect(codeOf(() => rows(t, start, end))).toBe("shape-mismatch");
  }
  for (const shape of [[4, -1], [-1, -1], [5], [0, -1]]) {
    expect(codeOf(() => reshape(t, shape))).toBe("shape-mismatch");
  }
});

test("fromBytes is a view when aligned and a copy when not", () => {
  const bytes = new Uint8Array(20).map((_, i) => i);
  const aligned = fromBytes("int32", [2], bytes.subarray(4, 12));
  expect((aligned.data as Int32Array).buffer).toBe(bytes.buffer);
  const moved = fromBytes("int32", [2], bytes.subarray(5, 13));
  expect(bytesOf(moved)).toEqual(bytes.slice(5, 13));
  expect(codeOf(() => fromBytes("int32", [2], bytes))).toBe("shape-mismatch");
  expect(fromBytes("int4", [3], bytes.subarray(0, 2)).shape).toEqual([3]);
});

test("all 65,536 float16 values survive the way through float32", () => {
  const bits = Uint16Array.from({ length: 65536 }, (_, i) => i);
  const floats = float16ToFloat32(bits);
  const back = float32ToFloat16(floats);
  for (let i = 0; i < 65536; i++) {
    const isNan = (i & 0x7c00) === 0x7c00 && (i & 0x3ff) !== 0;
    if (isNan) expect(Number.isNaN(floats[i])).toBe(true);
    if ((back[i] as number) !== (isNan ? i | 0x200 : i)) throw new Error(`${i} became ${back[i]}`);
  }
});

test("float16 rounds halfway cases to even, everywhere", () => {
  for (const lower of [0, 1, 2, 0x3fe, 0x3ff, 0x400, 0x3c00, 0x3c01, 0x7bfe]) {
    const [low, high] = float16ToFloat32(Uint16Array.of(lower, lower + 1));
    const middle = ((low as number) + (high as number)) / 2;
    const even = lower % 2 === 0 ? lower : lower + 1;
    const gap = middle * 2 ** -20;
    const [at, below, above] = float32ToFloat16(Float32Array.of(middle, middle - gap, middle + gap));
    expect([at, below, above]).toEqual([even, lower, lower + 1]);
  }
});

test("casts truncate, saturate and keep 64-bit integers exact", () => {
  const t = tensor("float64", [5], [1.9, -1.9, 1e30, -1e30, Number.NaN]);
  expect([...(castTensor(t, "int8").data as Int8Array)]).toEqual([1, -1, 127, -128, 0]);
  expect([...(castTensor(t, "uint32").data as Uint32Array)]).toEqual([1, 0, 2 ** 32 - 1, 0, 0]);
  expect([...(castTensor(t, "int64").data as BigInt64Array)]).toEqual([
    1n,
    -1n,
    2n ** 63n - 1n,
    -(2n ** 63n),
    0n,
  ]);
  expect([...(castTensor(t, "bool").data as Uint8Array)]).toEqual([1, 1, 1, 1, 1]);
  expect(values(castTensor(t, "int4"))).toEqual([1, -1, 7, -8, 0]);
  expect(values(castTensor(t, "uint4"))).toEqual([1, 0, 15, 0, 0]);
  const big = tensor("int64", [2], [2n ** 62n + 1n, -5n]);
  expect([...(castTensor(big, "uint64").data as BigUint64Array)]).toEqual([2n ** 62n + 1n, 0n]);
  expect(castTensor(big, "int64")).toBe(big);
  expect(values(castTensor(castTensor(tensor("float32", [2], [0.1, 3]), "bfloat16"), "float16"))).toEqual([
    0.10009765625, 3,
  ]);
  expect(codeOf(() => castTensor(t, "string"))).toBe("dtype-unsupported");
  expect(codeOf(() => castTensor(tensor("string", [0], []), "float32"))).toBe("dtype-unsupported");
});

test("4-bit and 64-bit integers pack and unpack", () => {
  for (const signed of [true, false]) {
    const low = signed ? -8 : 0;
    const all = Array.from({ length: 15 }, (_, i) => low + i);
    expect([...unpackInt4(packInt4(all, signed), 15, signed)]).toEqual(all);
  }
  expect(codeOf(() => unpackInt4(new Uint8Array(2), 5, true))).toBe("shape-mismatch");
  const numbers = [
    0,
    -1,
    1,
    2 ** 31,
    -(2 ** 31) - 1,
    2 ** 40 + 5,
    -(2 ** 40) - 5,
    Number.MAX_SAFE_INTEGER,
    -Number.MAX_SAFE_INTEGER,
  ];
  const packed = int64FromNumbers(numbers);
  expect([...packed]).toEqual(numbers.map(BigInt));
  expect(numbersFromInt64(packed)).toEqual(numbers);
  expect(codeOf(() => numbersFromInt64(BigInt64Array.of(2n ** 60n)))).toBe("dtype-unsupported");
  const target = new BigInt64Array(4);
  fillInt64FromInt32(target, Int32Array.of(5, -7, -(2 ** 31)));
  expect([...target]).toEqual([5n, -7n, -(2n ** 31n), 0n]);
  expect(codeOf(() => fillInt64FromInt32(target, new Int32Array(5)))).toBe("shape-mismatch");
});

test("comparisons see types, shapes, bits and values", () => {
  const a = tensor("float32", [2], [1, Number.NaN]);
  expect(tensorsEqual(a, tensor("float32", [2], [1, Number.NaN]))).toBe(true);
  expect(tensorsEqual(tensor("float32", [1], [0]), tensor("float32", [1], [-0]))).toBe(false);
  expect(tensorsEqual(a, reshape(a, [1, 2]))).toBe(false);
  expect(tensorsEqual(tensor("string", [1], ["a"]), tensor("string", [1], ["b"]))).toBe(false);
  expect(maxAbsDiff(a, a)).toBe(0);
  expect(maxAbsDiff(a, tensor("float32", [2], [1, 2]))).toBeNaN();
  expect(maxAbsDiff(tensor("float16", [2], [1, 2]), tensor("int64", [2], [1, 5]))).toBe(3);
  expect(
    maxAbsDiff(
      tensor("float32", [1], [Number.POSITIVE_INFINITY]),
      tensor("float32", [1], [Number.POSITIVE_INFINITY]),
    ),
  ).toBe(0);
  expect(codeOf(() => maxAbsDiff(a, scalar(1)))).toBe("shape-mismatch");
});

test("every numeric dtype has zeros, bytes and a way back", () => {
  for (const dtype of dtypes.filter((each): each is Exclude<Dtype, "string"> => each !== "string")) {
    const t = castTensor(tensor("float32", [2, 2], [0, 1, 2, 3]), dtype);
    expect(tensorsEqual(fromBytes(dtype, [2, 2], bytesOf(t)), t)).toBe(true);
    expect(values(t)).toEqual(dtype === "bool" ? [0, 1, 1, 1] : [0, 1, 2, 3]);
    expect(values(zeros(dtype, [3]))).toEqual([0, 0, 0]);
  }
});
