import { readFileSync } from "node:fs";
import { afterEach, beforeEach, expect, test } from "vitest";
import { joinPath, listDir, openBytes, readFile, readText, remove, tempDir, writeFileAtomic } from "#io";
import { TunesmithError } from "../../errors/index.js";
import {
  castTensor,
  encodeSafetensors,
  isTensorRef,
  openSafetensors,
  openSharded,
  readTensor,
  sliceRef,
  type Tensor,
  tensor,
  tensorsEqual,
  toFloat32,
  writeSafetensors,
  writeSharded,
  zeros,
} from "../index.js";
import { compareNames } from "./writer.js";

const fixture = new URL("../../../fixtures/safetensors/reference.safetensors", import.meta.url);
interface Expected {
  name: string;
  dtype: string;
  shape: number[];
  values: (number | string)[];
}
const expected: Expected[] = JSON.parse(
  readFileSync(new URL("../../../fixtures/safetensors/reference.json", import.meta.url), "utf8"),
);
const special: Record<string, number> = {
  inf: Number.POSITIVE_INFINITY,
  "-inf": Number.NEGATIVE_INFINITY,
  nan: Number.NaN,
};

let folder = "";
beforeEach(async () => {
  folder = await tempDir();
});
afterEach(() => remove(folder));

async function failure(promise: Promise<unknown>): Promise<TunesmithError> {
  const error = await promise.then(
    () => undefined,
    (cause: unknown) => cause,
  );
  if (error instanceof TunesmithError && error.fix) return error;
  throw new Error(`expected a TunesmithError with a fix, got ${String(error)}`);
}

/** A file of this header and this many data bytes. */
function file(header: unknown, dataBytes: number): Uint8Array {
  const text = new TextEncoder().encode(typeof header === "string" ? header : JSON.stringify(header));
  const bytes = new Uint8Array(8 + text.length + dataBytes);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(text.length), true);
  bytes.set(text, 8);
  return bytes;
}

const open = (bytes: Uint8Array) => openSafetensors(openBytes(bytes, "f.safetensors"));
const f32 = (begin: number, end: number) => ({
  dtype: "F32",
  shape: [(end - begin) / 4],
  data_offsets: [begin, end],
});

test("reads what the reference library wrote", async () => {
  const opened = await openSafetensors(fixture);
  expect([...opened.metadata]).toEqual([["format", "pt"]]);
  expect([...opened.entries.keys()].sort()).toEqual(expected.map(({ name }) => name).sort());
  for (const { name, dtype, shape, values } of expected) {
    const found = await opened.read(name);
    expect([found.dtype, found.shape]).toEqual([dtype, shape]);
    const wanted = values.map((value) => (typeof value === "string" ? (special[value] as number) : value));
    expect([...(castTensor(found, "float64").data as Float64Array)]).toEqual(wanted);
  }
  await opened.close();
});

test("metadata of null, as MLX writes it, is none", async () => {
  const { metadata, entries } = await open(file({ __metadata__: null, a: f32(0, 4) }, 4));
  expect([metadata.size, [...entries.keys()]]).toEqual([0, ["a"]]);
});

test("half types are rounded as torch rounds them", async () => {
  const opened = await openSafetensors(fixture);
  for (const set of ["corners", "noise"]) {
    const full = await opened.read(`${set}.f32`);
    for (const [short, dtype] of [
      ["f16", "float16"],
      ["bf16", "bfloat16"],
    ] as const) {
      const ours = toFloat32(castTensor(full, dtype));
      expect(ours).toEqual(toFloat32(await opened.read(`${set}.${short}`)));
    }
  }
  await opened.close();
});

test("writes byte for byte what the reference library wrote, in whatever order", async () => {
  const opened = await openSafetensors(fixture);
  const path = joinPath(folder, "copy.safetensors");
  const original = new Uint8Array(readFileSync(fixture));
  const size = await writeSafetensors(path, [...opened.entries].reverse(), { metadata: { format: "pt" } });
  expect(size).toBe(original.length);
  expect(await readFile(path)).toEqual(original);
  const loaded: [string, Tensor][] = [];
  for (const [name, ref] of opened.entries) loaded.push([name, await readTensor(ref)]);
  expect(encodeSafetensors(loaded, { metadata: opened.metadata })).toEqual(original);
  await opened.close();
});

test("lazy tensors, slices of references and rows", async () => {
  const opened = await openSafetensors(fixture);
  const noise = opened.entries.get("noise.bf16");
  if (noise === undefined) throw new Error("fixture lacks noise.bf16");
  expect(isTensorRef(noise)).toBe(true);
  const whole = await opened.read("noise.bf16");
  const part = await opened.readRows("noise.bf16", 1, 3);
  expect(part.shape).toEqual([2, 16]);
  expect(part.data).toEqual((whole.data as Uint16Array).slice(16, 48));
  expect((await failure(opened.readRows("noise.bf16", 3, 5))).code).toBe("shape-mismatch");
  const path = joinPath(folder, "x.safetensors");
  await writeSafetensors(path, [
    ["slice", sliceRef(noise, 0, 2)],
    ["lazy", { dtype: "float32", shape: [2], load: async () => tensor("float32", [2], [1, 2]) }],
  ]);
  const copy = await openSafetensors(path);
  expect(copy.metadata.size).toBe(0);
  expect(toFloat32(await copy.read("lazy"))).toEqual(Float32Array.of(1, 2));
  expect((await copy.read("slice")).data).toEqual((whole.data as Uint16Array).slice(0, 32));
  expect((await failure(copy.read("nope"))).code).toBe("tensor-not-found");
  await copy.close();
  const lying = { dtype: "float32", shape: [2], load: async () => zeros("float32", [3]) } as const;
  expect((await failure(writeSafetensors(path, [["a", lying]]))).code).toBe("shape-mismatch");
  expect(await listDir(folder)).toEqual(["x.safetensors"]);
  await opened.close();
});

test("an empty file and an empty tensor are fine", async () => {
  const empty = encodeSafetensors([]);
  expect(empty.length).toBe(16);
  expect((await open(empty)).entries.size).toBe(0);
  const none = await open(encodeSafetensors([["e", zeros("int64", [0, 3])]]));
  expect((await none.read("e")).shape).toEqual([0, 3]);
});

const broken: [string, Uint8Array, string][] = [
  ["too short", new Uint8Array(7), "too short"],
  ["header longer than the file", Uint8Array.of(100, 0, 0, 0, 0, 0, 0, 0, 0x7b, 0x7d), "header of 100 bytes"],
  ["absurd header length", new Uint8Array(16).fill(255), "limit"],
  ["not UTF-8", file("{", 0).with(8, 0xff), "not JSON"],
  ["not JSON", file("{nope}", 0), "not JSON"],
  ["an array", file("[]", 0), "not a JSON object"],
  ["leading space", file(" {}", 0), "not a JSON object"],
  [
    "duplicate name",
    file(`{"a":${JSON.stringify(f32(0, 4))},"\\u0061":${JSON.stringify(f32(0, 4))}}`, 4),
    "two entries",
  ],
  [
    "duplicate key in an entry",
    file('{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}', 4),
    "two entries",
  ],
  ["metadata of numbers", file({ __metadata__: { a: 1 } }, 0), "__metadata__"],
  ["metadata list", file({ __metadata__: ["a"] }, 0), "__metadata__"],
  ["entry of no object", file({ a: 1 }, 0), '"a"'],
  ["unknown dtype", file({ a: { ...f32(0, 4), dtype: "F33" } }, 4), "unknown dtype"],
  ["dtype of no string", file({ a: { ...f32(0, 4), dtype: ["F32"] } }, 4), "unknown dtype"],
  ["negative length", file({ a: { ...f32(0, 4), shape: [-1, -1] } }, 4), "shape"],
  ["fractional length", file({ a: { ...f32(0, 4), shape: [0.5, 2] } }, 4), "shape"],
  ["length as text", file({ a: { ...f32(0, 4), shape: ["1"] } }, 4), "shape"],
  ["huge product", file({ a: { ...f32(0, 4), shape: [2 ** 40, 2 ** 40] } }, 4), "more elements"],
  ["huge length", file('{"a":{"dtype":"F32","shape":[1e300],"data_offsets":[0,4]}}', 4), "shape"],
  ["shape and offsets differ", file({ a: { ...f32(0, 4), shape: [2] } }, 4), "takes 8 bytes"],
  ["three offsets", file({ a: { ...f32(0, 4), data_offsets: [0, 4, 4] } }, 4), "data_offsets"],
  ["offsets backwards", file({ a: { ...f32(0, 4), data_offsets: [4, 0] } }, 4), "before it begins"],
  ["beyond the end", file({ a: f32(0, 8) }, 4), "truncated"],
  ["overlap", file({ a: f32(0, 8), b: f32(4, 12) }, 12), "overlaps"],
  ["same place twice", file({ a: f32(0, 4), b: f32(0, 4) }, 4), "overlaps"],
  ["hole", file({ a: f32(0, 4), b: f32(8, 12) }, 12), "hole"],
  ["hole at the start", file({ a: f32(4, 8) }, 8), "hole"],
  ["trailing bytes", file({ a: f32(0, 4) }, 5), "behind the last"],
];
for (const [what, bytes, text] of broken) {
  test(`refuses a broken file: ${what}`, async () => {
    const error = await failure(open(bytes));
    expect(error.code).toBe("file-corrupt");
    expect(error.message).toContain(text);
    expect(error.message).toContain("f.safetensors");
  });
}

test("names the types that it lacks", async () => {
  for (const dtype of ["F8_E4M3", "F4", "C64"]) {
    const error = await failure(open(file({ w: { dtype, shape: [4], data_offsets: [0, 4] } }, 4)));
    expect(error.code).toBe("dtype-unsupported");
    expect(error.message).toContain(`"w" is of type ${dtype}`);
  }
});

test("a name of any length does not flood the message", async () => {
  const error = await failure(open(file({ ["x".repeat(100_000)]: 1 }, 0)));
  expect(error.message.length).toBeLessThan(500);
});

test("deep nesting is refused, not crashed on", async () => {
  const deep = "[".repeat(200_000) + "]".repeat(200_000);
  for (const key of ["dtype", "shape", "data_offsets"]) {
    const fields = { dtype: '"F32"', shape: "[1]", data_offsets: "[0,4]", [key]: deep };
    const entry = Object.entries(fields).map(([name, value]) => `"${name}":${value}`);
    expect((await failure(open(file(`{"a":{${entry.join(",")}}}`, 4)))).code).toBe("file-corrupt");
  }
  const index = joinPath(folder, "model.safetensors.index.json");
  await writeFileAtomic(index, `{"metadata":{"a":${deep}},"weight_map":{"a":${deep}}}`);
  expect((await failure(openSharded(folder))).code).toBe("file-corrupt");
});

test("refuses to write what the format cannot hold", async () => {
  const one = tensor("float32", [1], [1]);
  const half = castTensor(one, "float16");
  const cases: [[string, Tensor][], string][] = [
    [
      [
        ["a", one],
        ["a", half],
      ],
      "name-conflict",
    ],
    [[["__metadata__", one]], "name-conflict"],
    [[["\ud800", one]], "name-conflict"],
    [[["a", tensor("string", [1], ["x"])]], "dtype-unsupported"],
    [[["a", zeros("int4", [2])]], "dtype-unsupported"],
    [[["a", { ...one, shape: [2] }]], "shape-mismatch"],
  ];
  for (const [tensors, code] of cases) {
    expect((await failure(writeSafetensors(joinPath(folder, "x"), tensors))).code).toBe(code);
    expect(await listDir(folder)).toEqual([]);
  }
});

test("names sort as their UTF-8 bytes do", () => {
  const names = ["\uffee", "\u{1f600}", "\u{1f601}", "a", "", "ab", "\ud7ff", "\u{10000}"];
  const reference = [...names].sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
  expect([...names].sort(compareNames)).toEqual(reference);
});

const numbered = (count: number): [string, Tensor][] =>
  Array.from({ length: count }, (_, i) => [`t${i}`, tensor("float32", [4], [i, i, i, i])]);

test("shards are written with an index and read as one", async () => {
  await writeFileAtomic(joinPath(folder, "model.safetensors"), "stale");
  await writeFileAtomic(joinPath(folder, "model-extra.safetensors"), "mine");
  const files = await writeSharded(folder, numbered(5), { maxShardBytes: 40, metadata: { format: "pt" } });
  expect(files).toEqual([
    "model-00001-of-00003.safetensors",
    "model-00002-of-00003.safetensors",
    "model-00003-of-00003.safetensors",
    "model.safetensors.index.json",
  ]);
  expect(await listDir(folder)).toEqual([...files.slice(0, 3), "model-extra.safetensors", files[3]].sort());
  const index = JSON.parse(await readText(joinPath(folder, "model.safetensors.index.json")));
  expect(index).toMatchObject({ metadata: { total_size: 80 }, weight_map: { t4: files[2] } });
  const model = await openSharded(folder);
  expect(model.entries.size).toBe(5);
  for (const [name, value] of numbered(5)) expect(tensorsEqual(await model.read(name), value)).toBe(true);
  // Rewriting a checkpoint in place, from itself, into one file.
  expect(await writeSharded(folder, model.entries)).toEqual(["model.safetensors"]);
  expect(await listDir(folder)).toEqual(["model-extra.safetensors", "model.safetensors"]);
  await model.close();
  const single = await openSharded(folder);
  for (const [name, value] of numbered(5)) expect(tensorsEqual(await single.read(name), value)).toBe(true);
  await single.close();
});

test("a damaged set of shards is refused", async () => {
  await writeSharded(folder, numbered(3), { maxShardBytes: 16 });
  const path = joinPath(folder, "model.safetensors.index.json");
  const text = await readText(path);
  const edited: [string, string][] = [
    [text.replace('"t1"', '"t9"'), "tensor-not-found"],
    [text.replace(/"t2": "[^"]*"/, '"t1b": "model-00002-of-00003.safetensors"'), "tensor-not-found"],
    [text.replace(/"model-00003[^"]*"/, '"../x.safetensors"'), "file-corrupt"],
    [text.replace(/"model-00003[^"]*"/, '"model-00004-of-00003.safetensors"'), "file-not-found"],
    [text.replace(/"model-00003[^"]*"/, "7"), "file-corrupt"],
    [text.replace('"t2"', '"t1"'), "file-corrupt"],
    [text.slice(5), "file-corrupt"],
    ["[]", "file-corrupt"],
    ["null", "file-corrupt"],
  ];
  for (const [content, code] of edited) {
    await writeFileAtomic(path, content);
    expect([content, (await failure(openSharded(folder))).code]).toEqual([content, code]);
  }
  await writeFileAtomic(path, text);
  const shard = joinPath(folder, "model-00002-of-00003.safetensors");
  await writeSafetensors(shard, [
    ["t1", zeros("int8", [1])],
    ["more", zeros("int8", [1])],
  ]);
  const error = await failure(openSharded(path));
  expect(error.code).toBe("file-corrupt");
  expect(error.message).toContain('"more" is not listed');
  await remove(shard);
  expect((await failure(openSharded(folder))).code).toBe("file-not-found");
  expect((await failure(openSharded(folder, "adapter_model"))).fix).toContain("model-00001");
  expect((await failure(writeSharded(folder, [], { maxShardBytes: 0 }))).code).toBe("config-invalid");
});
