import { copyFileSync, cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { TunesmithError } from "../../errors/index.js";
import { rng } from "../../runtime/random/index.js";
import {
  castTensor,
  openSafetensors,
  readTensor,
  type Tensor,
  tensor,
  toFloat32,
  writeSafetensors,
} from "../../tensor/index.js";
import { adapt, loadAdapter, loadPeft, lora, saveAdapter } from "../index.js";
import { baseModel, fixture, probeLogits, randomise, relativeDifference } from "../testing/fixtures.js";

const temporary = () => mkdtempSync(join(tmpdir(), "tunesmith-folders-"));
const copyOf = (name: string): string => {
  const folder = join(temporary(), "adapter");
  cpSync(fixture(`peft/${name}`), folder, { recursive: true });
  rmSync(join(folder, "expected.safetensors"));
  return folder;
};
const modelFile = (folder: string) => join(folder, "adapter_model.safetensors");

async function editTensors(
  folder: string,
  edit: (tensors: Map<string, Tensor>) => void,
  metadata: Record<string, string> = { format: "pt" },
): Promise<void> {
  const file = await openSafetensors(modelFile(folder));
  const tensors = new Map<string, Tensor>();
  for (const name of file.entries.keys()) {
    const value = await file.read(name);
    tensors.set(name, { ...value, data: value.data.slice() } as Tensor);
  }
  await file.close();
  edit(tensors);
  await writeSafetensors(modelFile(folder), tensors, { metadata });
}
const editConfig = (folder: string, edit: (config: Record<string, unknown>) => void) => {
  const path = join(folder, "adapter_config.json");
  const config = JSON.parse(readFileSync(path, "utf8")) as Record<string, unknown>;
  edit(config);
  writeFileSync(path, JSON.stringify(config));
};
const Q = "base_model.model.model.layers.0.self_attn.q_proj";

describe("damaged folders", () => {
  const fails = async (folder: string, code: string, message: RegExp) => {
    const base = await baseModel("llama");
    const error = await loadAdapter(base, folder).then(
      () => undefined,
      (thrown: unknown) => thrown,
    );
    expect(error).toBeInstanceOf(TunesmithError);
    expect((error as TunesmithError).code).toBe(code);
    expect((error as TunesmithError).message).toMatch(message);
    expect((error as TunesmithError).fix).toBeTruthy();
  };

  test("a wrong prefix", async () => {
    const folder = copyOf("llama-plain");
    await editTensors(folder, (tensors) => {
      for (const [name, value] of [...tensors]) {
        tensors.delete(name);
        tensors.set(name.replace("base_model.model.", ""), value);
      }
    });
    await fails(folder, "adapter-invalid", /base_model\.model\..* is missing/);
  });

  test("a missing tensor, an extra one, one of another shape", async () => {
    const missing = copyOf("llama-plain");
    await editTensors(missing, (tensors) => tensors.delete(`${Q}.lora_A.weight`));
    await fails(missing, "adapter-invalid", /q_proj\.lora_A\.weight' is missing[\s\S]*nearest/);

    const extra = copyOf("llama-plain");
    await editTensors(extra, (tensors) => tensors.set(`${Q}.lora_C.weight`, tensor("float32", [1], [1])));
    await fails(extra, "adapter-invalid", /lora_C\.weight' is not used/);

    const unprefixed = copyOf("llama-plain");
    await editTensors(unprefixed, (tensors) => tensors.set("lora_C", tensor("float32", [1], [1])));
    await fails(unprefixed, "adapter-invalid", /lacks 'base_model\.model\.'/);

    const shape = copyOf("llama-plain");
    await editTensors(shape, (tensors) =>
      tensors.set(`${Q}.lora_A.weight`, tensor("float32", [2, 24], new Float32Array(48))),
    );
    await fails(shape, "adapter-invalid", /\[2,24\], this model needs \[4,24\]/);
  });

  test("a base weight is not overwritten", async () => {
    const folder = copyOf("llama-plain");
    await editTensors(folder, (tensors) =>
      tensors.set(`${Q}.weight`, tensor("float32", [24, 24], new Float32Array(576).fill(9))),
    );
    await fails(folder, "adapter-invalid", /q_proj\.weight' is not used/);
    const inside = copyOf("llama-plain");
    await editTensors(inside, (tensors) =>
      tensors.set(`${Q}.base_layer.weight`, tensor("float32", [24, 24], new Float32Array(576).fill(9))),
    );
    await fails(inside, "wrong-base", /base_layer\.weight' differs/);
  });

  test("values that are not finite, and none at all", async () => {
    const infinite = copyOf("llama-plain");
    await editTensors(infinite, (tensors) => {
      (tensors.get(`${Q}.lora_B.weight`)?.data as Float32Array)[3] = Number.POSITIVE_INFINITY;
    });
    await fails(infinite, "adapter-invalid", /q_proj\.lora_B' is Infinity at index 3/);
    const zero = copyOf("llama-plain");
    await editTensors(zero, (tensors) => {
      for (const [name, value] of tensors) if (name.includes("lora_B")) (value.data as Float32Array).fill(0);
    });
    await fails(zero, "adapter-no-effect", /none of its 4 modules/);
  });

  test("a pickle, no folder, no config, no tensors", async () => {
    const pickle = copyOf("llama-plain");
    rmSync(modelFile(pickle));
    writeFileSync(join(pickle, "adapter_model.bin"), "\x80\x02}q\x00.");
    await fails(pickle, "format-unsupported", /adapter_model\.bin/);
    await fails(join(temporary(), "nothing"), "file-not-found", /adapter_config\.json/);
    await fails(temporary(), "file-not-found", /adapter_config\.json/);
    const empty = copyOf("llama-plain");
    rmSync(modelFile(empty));
    await fails(empty, "file-not-found", /adapter_model/);
    const cut = copyOf("llama-plain");
    writeFileSync(modelFile(cut), readFileSync(modelFile(cut)).subarray(0, 900));
    await fails(cut, "file-corrupt", /adapter_model/);
    const words = copyOf("llama-plain");
    writeFileSync(join(words, "adapter_config.json"), "{ not json");
    await fails(words, "file-corrupt", /JSON/);
  });

  test("an adapter of another architecture", async () => {
    await fails(copyOf("gpt2-plain"), "target-not-found", /c_attn/);
  });

  test.each([
    ["peft_type", "lora", /LORA/],
    ["peft_type", "TRAINABLE_TOKENS", /TRAINABLE_TOKENS/],
    ["arrow_config", { top_k: 2 }, /experts/],
    ["layer_replication", [[0, 2]], /layer_replication/],
    ["target_parameters", ["experts.up"], /target_parameters.*\[experts, in, out\]/],
    ["peft_type", "PSOFT", /save_as_lora/],
    ["init_lora_weights", "corda", /corda/],
    ["r", 0, /\br\b/],
    ["lora_dropout", 1, /dropout/],
    ["rank_pattern", { q_proj: 1.5 }, /rankPattern|rank_pattern/],
  ] as const)("%s = %j", async (key, value, message) => {
    const folder = copyOf("llama-plain");
    editConfig(folder, (config) => {
      config[key] = value;
    });
    await fails(folder, "adapter-invalid", message);
  });
});

describe("unusual folders", () => {
  test.each(["float16", "bfloat16"] as const)("%s tensors are widened", async (dtype) => {
    const [base, folder] = [await baseModel("llama"), copyOf("llama-plain")];
    const full = await probeLogits(await loadAdapter(base, folder));
    await editTensors(folder, (tensors) => {
      for (const [name, value] of tensors) tensors.set(name, castTensor(value, dtype));
    });
    const model = await loadAdapter(base, folder);
    expect([...model.parameters.values()].every((entry) => entry.tensor.dtype === "float32")).toBe(true);
    const difference = relativeDifference(await probeLogits(model), full);
    expect(difference).toBeLessThan(dtype === "float16" ? 1e-2 : 5e-2);
    expect(difference).toBeGreaterThan(0);
  });

  test("the smallest config", async () => {
    const base = await baseModel("llama");
    const folder = copyOf("llama-plain");
    await editTensors(folder, (tensors) => {
      for (const name of [...tensors.keys()]) if (name.includes("v_proj")) tensors.delete(name);
    });
    writeFileSync(
      join(folder, "adapter_config.json"),
      '{"peft_type":"LORA","r":4,"target_modules":["q_proj"]}',
    );
    const model = await loadAdapter(base, folder);
    expect(model.receipt.sitesMatched).toBe(2);
    expect(model.adapters.get("default")?.adaptation.config).toMatchObject({ alpha: 8, dropout: 0 });
  });

  test("without target_modules: the architecture's table", async () => {
    const folder = copyOf("llama-plain");
    editConfig(folder, (config) => {
      delete config.target_modules;
    });
    expect((await loadAdapter(await baseModel("llama"), folder)).receipt.sitesMatched).toBe(4);
  });

  test("adapters in sub-folders", async () => {
    const base = await baseModel("llama");
    const root = temporary();
    cpSync(copyOf("llama-plain"), join(root, "one"), { recursive: true });
    expect((await loadAdapter(base, root)).receipt.sitesChanged).toBe(4);
    cpSync(copyOf("llama-rslora"), join(root, "two"), { recursive: true });
    mkdirSync(join(root, "notes"));
    await expect(loadAdapter(base, root)).rejects.toThrow(/sub-folders: .*one, .*two/);
    const two = await loadPeft(base, root, { name: "two" });
    expect(two.adaptation.config).toMatchObject({ rslora: true });
    expect(two.name).toBe("two");
  });
});

describe("our own files", () => {
  const written = async (options: Parameters<typeof lora>[0] = {}, name = "llama") => {
    const model = randomise(await adapt(await baseModel(name), lora({ rank: 2, ...options })));
    const folder = join(temporary(), "adapter");
    await saveAdapter(model, folder);
    return { model, folder };
  };
  const otherBase = async (tensorName: string) => {
    const folder = temporary();
    copyFileSync(fixture("models/llama/config.json"), join(folder, "config.json"));
    const file = await openSafetensors(fixture("models/llama/model.safetensors"));
    const tensors = new Map<string, Tensor>();
    for (const [name, entry] of file.entries) tensors.set(name, await readTensor(entry));
    const changed = tensors.get(tensorName) as Tensor;
    const data = toFloat32(changed).slice();
    data[0] = Number(data[0]) + 1;
    tensors.set(tensorName, tensor("float32", changed.shape, data));
    await writeSafetensors(join(folder, "model.safetensors"), tensors);
    const { loadFolder } = await import("../../models/index.js");
    return loadFolder(folder);
  };

  test("another base is named by its tensors; tensors the adapter does not touch may differ", async () => {
    const { folder } = await written();
    const touched = await otherBase("model.layers.1.self_attn.v_proj.weight");
    await expect(loadAdapter(touched, folder)).rejects.toMatchObject({
      code: "wrong-base",
      message: expect.stringContaining("model.layers.1.self_attn.v_proj.weight"),
    });
    expect((await loadAdapter(touched, folder, { anyBase: true })).receipt.sitesChanged).toBe(4);
    const untouched = await otherBase("model.norm.weight");
    expect((await loadAdapter(untouched, folder)).receipt.sitesChanged).toBe(4);
  });

  test("another tokenizer is a warning", async () => {
    const { model, folder } = await written();
    const withHash = (hash: string) => ({ ...model.base, tokenizer: { hash } as never });
    const saved = join(temporary(), "adapter");
    const tokenized = await loadAdapter(withHash("a"), folder);
    expect(tokenized.receipt.warnings).toEqual([]);
    await saveAdapter(tokenized, saved);
    expect((await loadAdapter(withHash("a"), saved)).receipt.warnings).toEqual([]);
    expect((await loadAdapter(withHash("b"), saved)).receipt.warnings).toEqual([
      expect.stringContaining("tokenizer"),
    ]);
  });

  test.each(["all-linear", ".*\\.(q|v)_proj"])(
    "%s in some layers is written out module by module",
    async (targets) => {
      const { model, folder } = await written({ targets, layers: [1] });
      const config = JSON.parse(readFileSync(join(folder, "adapter_config.json"), "utf8")) as {
        readonly target_modules: readonly string[];
      };
      const sites = [...(model.adapters.get("default")?.sites.keys() ?? [])];
      expect(config.target_modules).toEqual(sites.toSorted());
      expect(sites.every((path) => path.startsWith("model.layers.1."))).toBe(true);
      const loaded = await loadAdapter(model.base, folder);
      expect(relativeDifference(await probeLogits(loaded), await probeLogits(model))).toBe(0);
    },
  );

  test("a damaged fingerprint", async () => {
    const { model, folder } = await written();
    await editTensors(folder, () => undefined, { format: "pt", "tunesmith.base_fingerprint": "{" });
    await expect(loadAdapter(model.base, folder)).rejects.toMatchObject({ code: "adapter-invalid" });
  });

  test.each([
    ["pissa", { init: "pissa" }],
    ["pissa rslora", { init: "pissa", rslora: true, alpha: 3 }],
    ["olora", { init: "olora" }],
    ["pissa patterns", { init: "pissa", rankPattern: { q_proj: 3 }, alphaPattern: { v_proj: 5 } }],
  ] as const)("%s is written for the original base, with ranks doubled", async (_, options) => {
    for (const name of ["gpt2", "llama"]) {
      const { model, folder } = await written({ ...options, targets: "all-linear" }, name);
      const config = JSON.parse(readFileSync(join(folder, "adapter_config.json"), "utf8")) as Record<
        string,
        unknown
      >;
      expect(config).toMatchObject({ r: 4, init_lora_weights: true });
      const loaded = await loadAdapter(model.base, folder);
      expect(
        Object.keys([...(loaded.adapters.get("default")?.sites.values() ?? [])][0]?.tensors ?? {}),
      ).toEqual(["lora_A", "lora_B"]);
      expect(relativeDifference(await probeLogits(loaded), await probeLogits(model))).toBeLessThan(1e-5);
    }
  });
});

test("configs with random values load or fail with a typed error", async () => {
  const base = await baseModel("llama");
  const random = rng(5, "fuzz");
  const values: readonly unknown[] = [
    ...[
      null,
      true,
      false,
      0,
      -1,
      4,
      1e9,
      1.5,
      "",
      "q_proj",
      "(",
      ".*",
      "all-linear",
      [],
      ["q_proj"],
      ["("],
      [null],
      [0],
      {},
    ],
    ...[
      { q_proj: 4 },
      { "(": 2 },
      { a: "b" },
      { q_proj: -1 },
      [[1]],
      "LORA",
      "__proto__",
      { __proto__: 1 },
      Number.MAX_SAFE_INTEGER,
    ],
  ];
  const folder = copyOf("llama-plain");
  const path = join(folder, "adapter_config.json");
  const original = readFileSync(path, "utf8");
  const keys = Object.keys(JSON.parse(original) as object);
  let failed = 0;
  for (let round = 0; round < 150; round++) {
    writeFileSync(path, original);
    editConfig(folder, (config) => {
      for (let count = random.int(1, 3); count > 0; count--)
        config[keys[random.int(0, keys.length)] as string] = values[random.int(0, values.length)];
    });
    const error = await loadPeft(base, folder).then(
      () => undefined,
      (thrown: unknown) => thrown,
    );
    if (error === undefined) continue;
    failed++;
    expect(error, readFileSync(path, "utf8")).toBeInstanceOf(TunesmithError);
  }
  expect(failed).toBeGreaterThan(20);
  expect(failed).toBeLessThan(150);
});
