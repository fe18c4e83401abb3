import { existsSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { openBytes } from "#io";
import { TunesmithError } from "../../../errors/index.js";
import { isTensorRef, loadStored, openTorch, stateDictOf, type TensorRef, valuesOf } from "../../index.js";
import { cursorOf } from "../cursor.js";
import { expectedOf, fixtureBytes, fixturePath, fuzz, spelled } from "../testing/fixtures.js";
import { torchHost } from "./globals.js";
import { unpickle } from "./pickle.js";

const assets = process.env.TUNESMITH_ASSETS ?? "../shared/assets";
const asset = (path: string) => join(assets, "models", path);

async function failure(promise: Promise<unknown>): Promise<TunesmithError> {
  const error = await promise.then(
    () => undefined,
    (thrown: unknown) => thrown,
  );
  expect(error).toBeInstanceOf(TunesmithError);
  return error as TunesmithError;
}

describe.each(["zip.pth", "legacy.pth", "deflated.pth"])("%s", (name) => {
  test("every number format, view and shared storage reads as torch reads it", async () => {
    const file = await openTorch(fixturePath(name));
    const expected = await expectedOf("state_dict");
    expect([...file.tensors.keys()]).toEqual(expected.map((entry) => entry.name));
    for (const entry of expected) {
      const stored = file.tensors.get(entry.name);
      if (!stored) throw new Error(entry.name);
      const loaded = await loadStored(stored);
      expect([entry.name, loaded.dtype, loaded.shape]).toEqual([entry.name, entry.dtype, entry.shape]);
      expect(spelled(loaded)).toEqual(entry.values);
    }
    await file.close();
  });

  test("the rest of the checkpoint is plain data", async () => {
    const { value } = await openTorch(fixturePath(name));
    if (!(value instanceof Map)) throw new Error("no dictionary");
    expect(value.get("epoch")).toBe(3);
    expect(value.get("numpy")).toBe(0.25);
    expect(value.get("dtype")).toBe("torch.bfloat16");
    expect(value.get("size")).toEqual([2, 3]);
    expect(value.get("huge")).toBe(2n ** 80n);
    expect(value.get("flags")).toEqual([true, null, new Uint8Array([97, 98]), "text \u2603"]);
    expect(value.get("array")).toMatchObject({
      dtype: "int16",
      shape: [2, 3],
      data: Int16Array.of(0, 1, 2, 3, 4, 5),
    });
    const groups = value.get("optimizer").get("param_groups");
    expect(groups[0]).toEqual(
      new Map<string, unknown>([
        ["lr", 0.1],
        ["betas", [0.9, 0.999]],
      ]),
    );
    const step = value.get("optimizer").get("state").get(0).get("step");
    expect(valuesOf(await loadStored(step))[0]).toBe(7);
  });
});

test("contiguous tensors of stored archives stay where they are", async () => {
  const file = await openTorch(fixturePath("zip.pth"));
  const direct = [...file.tensors].filter(([, stored]) => !("load" in stored)).map(([name]) => name);
  expect(direct).toContain("f32");
  expect(direct).toContain("rows");
  expect(direct).not.toContain("steps");
  const ref = file.tensors.get("rows") as TensorRef;
  expect(isTensorRef(ref)).toBe(true);
  expect(ref.byteLength).toBe(48);
});

test("unsigned types, which torch writes over untyped storages", async () => {
  const file = await openTorch(fixturePath("unsigned.pth"));
  const read = async (name: string) => loadStored(file.tensors.get(name) ?? fail(name));
  expect(await read("u16")).toMatchObject({ dtype: "uint16", data: Uint16Array.of(65535) });
  expect(await read("u64")).toMatchObject({ dtype: "uint64", data: BigUint64Array.of(1n) });
});

function fail(name: string): never {
  throw new Error(name);
}

test("names outside the closed list refuse the file", async () => {
  const malicious = await failure(openTorch(fixturePath("malicious.pth")));
  expect(malicious.code).toBe("unsafe-pickle");
  expect(malicious.message).toMatch(/posix\.system/);
  const module = await failure(openTorch(fixturePath("module.pth")));
  expect(module.code).toBe("unsafe-pickle");
  expect(module.message).toMatch(/torch\.nn\.modules\.linear\.Linear/);
});

test.each([0, 1, 2, 3, 4])("pickle protocol %i", async (protocol) => {
  const bytes = await fixtureBytes(`protocol${protocol}.pkl`);
  const host = torchHost("x", () => Promise.reject(new Error("no tensors here")));
  const value = unpickle(cursorOf(bytes, "x", "pickle"), host);
  expect(value).toEqual(
    new Map<string, unknown>([
      ["a", [1, -2, 300, 70000, 2 ** 40, -(2n ** 70n)]],
      ["b", [0.5, -1e300]],
      ["c", new Map([["nested", new Map([["x", null]])]])],
      ["d", "\u2603"],
      ["e", true],
      ["f", new Set([1, 2])],
    ]),
  );
});

describe("crafted pickles", () => {
  const run = (program: number[]) => {
    const host = torchHost("crafted", () => Promise.reject(new Error()));
    return unpickle(cursorOf(Uint8Array.from(program), "crafted", "pickle"), host);
  };
  const text = (value: string) => [...value].map((character) => character.charCodeAt(0));

  test.each([
    ["builtins eval", "unsafe-pickle"],
    ["torch load", "unsafe-pickle"],
    ["torch.hub load", "unsafe-pickle"],
    ["collections __class__", "unsafe-pickle"],
    ["torch constructor", "unsafe-pickle"],
    ["numpy.core.multiarray __proto__", "unsafe-pickle"],
  ])("%s", (name, code) => {
    const [module = "", attribute = ""] = name.split(" ");
    const program = [...text(`c${module}\n${attribute}\n`), ...text("(tR.")];
    expect(() => run(program)).toThrow(expect.objectContaining({ code }));
  });

  test("a list that contains itself, a long copied again and again, an endless frame", () => {
    const cyclic = run([...text("]q\x00h\x00a.")]) as unknown[];
    expect(cyclic[0]).toBe(cyclic);
    // A set of a long memoised list, asked for many times: linear in the file or refused.
    const items = Array.from({ length: 4000 }, () => text("K\x01")).flat();
    const copies = Array.from({ length: 4000 }, () => text("cbuiltins\nset\n(h\x00tR0")).flat();
    const bomb = [...text("("), ...items, ...text("lq\x00"), ...copies, ...text(".")];
    expect(() => run(bomb)).toThrow(/over and over/);
    expect(() => run([0x8b, 0xff, 0xff, 0xff, 0x7f, 0x2e])).toThrow(/integer of/);
    expect(() => run([0x8e, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f, 0x00])).toThrow(TunesmithError);
  });
});

test.each(["zip.pth", "legacy.pth", "deflated.pth"])("damaged copies of %s", async (name) => {
  const { refused, accepted } = await fuzz(name, 600, async (source) => {
    const file = await openTorch(source);
    for (const stored of file.tensors.values()) await loadStored(stored);
  });
  expect(refused).toBeGreaterThan(100);
  expect(accepted).toBeGreaterThan(10);
});

test("files of other kinds", async () => {
  const text = openBytes(new TextEncoder().encode("hello world, this is no checkpoint"), "note.txt");
  expect((await failure(openTorch(text))).code).toBe("format-unsupported");
  expect((await failure(openTorch(openBytes(new Uint8Array(0), "empty.pth")))).code).toBe(
    "format-unsupported",
  );
  expect((await failure(openTorch(fixturePath("arrays.npz")))).message).toMatch(/data\.pkl/);
  expect(() => stateDictOf(new Map([["epoch", 3]]))).toThrow(/epoch/);
});

test.skipIf(!existsSync(asset("resnet20-cifar10/resnet20.th")))("ResNet-20, a legacy file", async () => {
  const file = await openTorch(asset("resnet20-cifar10/resnet20.th"));
  expect(file.value instanceof Map && file.value.get("best_prec1")).toBeCloseTo(91.78, 3);
  const first = await loadStored(file.tensors.get("conv1.weight") ?? fail("conv1.weight"));
  expect([first.dtype, first.shape]).toEqual(["float32", [16, 3, 3, 3]]);
  const count = [...file.tensors.values()].reduce(
    (sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1),
    0,
  );
  expect([file.tensors.size, count]).toEqual([97, 271098]);
  await file.close();
});

test.skipIf(!existsSync(asset("lora-originals/roberta_base_lora_mnli.bin")))(
  "a loralib checkpoint",
  async () => {
    const file = await openTorch(asset("lora-originals/roberta_base_lora_mnli.bin"));
    expect(file.tensors.size).toBe(52);
    const a = await loadStored(
      file.tensors.get("roberta.encoder.layer.0.attention.self.query.lora_A") ?? fail("lora_A"),
    );
    expect(a.shape).toEqual([8, 768]);
    expect(valuesOf(a)[0]).toBeCloseTo(0.010498442687094212, 6);
    await file.close();
  },
);
