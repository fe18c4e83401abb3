import { readFileSync } from "node:fs";
import { expect, test } from "vitest";
import { architectures } from "../models/index.js";
import { rng } from "../runtime/random/index.js";
import { type Candidate, isTarget, selectTargets } from "./targets.js";
import { fixture } from "./testing/fixtures.js";

interface ModuleEntry {
  readonly path: string;
  readonly kind: "Linear" | "Conv1D" | "Conv2d" | "Embedding" | "other";
}
interface Case {
  readonly model: string;
  readonly config: Readonly<Record<string, unknown>>;
  readonly matched?: readonly string[];
  readonly error?: string;
}
const table = JSON.parse(readFileSync(fixture("peft/targets.json"), "utf8")) as {
  readonly models: Readonly<Record<string, readonly ModuleEntry[]>>;
  readonly cases: readonly Case[];
};
const DEFAULTS: Readonly<Record<string, readonly string[]>> = {
  gpt2: ["c_attn"],
  llama: ["q_proj", "v_proj"],
};

const candidatesOf = (model: string): Candidate[] =>
  (table.models[model] ?? []).flatMap(({ path, kind }): Candidate[] =>
    kind === "other"
      ? []
      : // For the rules a convolution is what an embedding is: a module that all-linear leaves out.
        [{ path, kind: /^(Linear|Conv1D)$/.test(kind) ? "linear" : "embedding", isHead: path === "lm_head" }],
  );

const select = ({ model, config }: Case): string[] => {
  const layers = config.layers_to_transform as number | number[] | undefined;
  return selectTargets(candidatesOf(model), {
    targets: (config.target_modules as string | string[] | null) ?? (DEFAULTS[model] as string[]),
    exclude: config.exclude_modules as string | string[] | undefined,
    layers: layers === undefined ? undefined : [layers].flat(),
    layersPattern: config.layers_pattern as string | string[] | undefined,
    saved: config.modules_to_save as string[] | undefined,
  })
    .map(({ path }) => path)
    .toSorted();
};

/** A list with an item that no module matches: the reference passes over it, here it is an error. */
const isStricter = ({ model, config }: Case) =>
  Array.isArray(config.target_modules) &&
  config.target_modules.some(
    (item) => !candidatesOf(model).some(({ path }) => path === item || path.endsWith(`.${item}`)),
  );

test("there are 65 cases, of which one is deliberately stricter", () => {
  expect(table.cases).toHaveLength(65);
  const stricter = table.cases.filter((entry) => entry.matched && isStricter(entry));
  expect(stricter.map(({ config }) => config.target_modules)).toEqual([["c_attn", "missing"]]);
});

test.each(table.cases.map((entry) => [`${entry.model} ${JSON.stringify(entry.config)}`, entry] as const))(
  "%s",
  (_, entry) => {
    if (entry.matched && !isStricter(entry)) expect(select(entry)).toEqual(entry.matched.toSorted());
    else
      expect(() => select(entry)).toThrow(
        expect.objectContaining({ code: expect.stringMatching(/^target-/) }),
      );
  },
);

/** The rules once more, over path segments instead of expressions. */
function expected(
  path: string,
  targets: readonly string[],
  exclude: readonly string[],
  saved: readonly string[],
) {
  const segments = path.split(".");
  const endsIn = (item: string) => segments.slice(-item.split(".").length).join(".") === item;
  const below = (item: string) =>
    segments.some((_, at) => segments.slice(at, at + item.split(".").length).join(".") === item);
  return targets.some(endsIn) && !exclude.some(endsIn) && !saved.some(below);
}

test("lists match whole segments at the end, on generated names", () => {
  const random = rng(11, "names");
  const names = ["q", "qq", "proj", "q_proj", "h", "0", "1", "mlp", "attn"];
  const word = () => names[random.int(0, names.length)] as string;
  const path = (longest: number) => Array.from({ length: 1 + random.int(0, longest) }, word).join(".");
  let selected = 0;
  for (let round = 0; round < 3000; round++) {
    const [one, targets, exclude, saved] = [path(6), [path(2), path(1)], [path(3)], [path(2)]];
    const wanted = expected(one, targets, exclude, saved);
    selected += wanted ? 1 : 0;
    expect(
      isTarget({ path: one, kind: "linear", isHead: false }, { targets, exclude, saved }),
      `${one} ${targets} ${exclude} ${saved}`,
    ).toBe(wanted);
  }
  expect(selected).toBeGreaterThan(200);
});

test("a group of modules is no target", () => {
  expect(() => selectTargets(candidatesOf("llama"), { targets: ["mlp"] })).toThrow(/mlp[\s\S]*gate_proj/);
});

test.each(["all-linear", ".*\\.(q|v)_proj", ["q_proj", "down_proj"]])("layers narrow %j", (targets) => {
  const candidates = candidatesOf("llama");
  const all = selectTargets(candidates, { targets });
  const upper = selectTargets(candidates, { targets, layers: [1] });
  expect(upper).toEqual(all.filter(({ path }) => path.startsWith("model.layers.1.")));
  expect(2 * upper.length).toBe(all.length);
});

test("a layers pattern without layers is a mistake", () => {
  const selection = { targets: ["q_proj"], layersPattern: "layers" };
  expect(() => selectTargets(candidatesOf("llama"), selection)).toThrow(
    expect.objectContaining({ code: "config-invalid" }),
  );
});

test("an empty list is an error", () => {
  expect(() => selectTargets(candidatesOf("llama"), { targets: [] })).toThrow(/empty/);
});

test("a misspelled name lists near ones", () => {
  const candidates = candidatesOf("llama");
  expect(() => selectTargets(candidates, { targets: ["q_proj", "v_prj"] })).toThrow(/'v_prj'[\s\S]*v_proj/);
  expect(() => selectTargets(candidates, { targets: "q_proj" })).toThrow(
    /regular expression over the whole path/,
  );
  expect(() => selectTargets(candidates, { targets: "(q_proj" })).toThrow(
    expect.objectContaining({ code: "config-invalid" }),
  );
});

test("default targets are PEFT's table", () => {
  const reference: Readonly<Record<string, readonly string[]>> = {
    gpt2: ["c_attn"],
    ...Object.fromEntries(
      ["llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text"].map((name) => [
        name,
        ["q_proj", "v_proj"],
      ]),
    ),
  };
  for (const [name, targets] of Object.entries(reference)) {
    const definition = architectures.find(({ modelTypes }) => modelTypes.includes(name));
    expect(definition?.defaultTargets, name).toEqual(targets);
  }
});
