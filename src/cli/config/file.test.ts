import { mkdirSync, mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterEach, expect, test, vi } from "vitest";
import { readConfigFile } from "./file.js";
import { parseOverrides } from "./merge.js";
import { originsOf, resolveOptions } from "./resolve.js";
import { runSchema } from "./schema.js";

const folder = mkdtempSync(join(tmpdir(), "tunesmith-extends-"));
const write = (name: string, text: string) => {
  const path = join(folder, name);
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, text);
  return path;
};
const variable = (inside: string) => `\${env:${inside}}`;
afterEach(() => vi.unstubAllEnvs());

test("a file wins over what it extends, later bases over earlier ones; each key knows its line", async () => {
  write("shared/base.yaml", "lr: 1\nseed: 1\nrankPattern: { q_proj: 2, v_proj: 2 }\ntargets: [a, b]\n");
  write("shared/more.yaml", "extends: base.yaml\n\nseed: 2\n");
  write("other.yaml", "batchSize: 3\nlr: 5\n");
  const path = write(
    "run.yaml",
    "extends: [shared/more.yaml, other.yaml]\nrankPattern:\n  q_proj: 9\ntargets: [c]\n",
  );
  const { values, places } = await readConfigFile(path);
  expect(values).toEqual({
    lr: 5,
    seed: 2,
    batchSize: 3,
    rankPattern: { q_proj: 9, v_proj: 2 },
    targets: ["c"],
  });
  expect(places).toEqual({
    lr: `${join(folder, "other.yaml")}:2`,
    seed: `${join(folder, "shared/more.yaml")}:3`,
    batchSize: `${join(folder, "other.yaml")}:1`,
    rankPattern: `${path}:2`,
    targets: `${path}:4`,
  });
});

test("circles, wrong and missing bases are errors", async () => {
  write("a.yaml", "extends: b.yaml\n");
  const loop = write("b.yaml", "extends: ./a.yaml\n");
  await expect(readConfigFile(loop)).rejects.toThrow(/extends itself: .*b\.yaml -> .*a\.yaml -> .*b\.yaml/);
  await expect(readConfigFile(write("c.yaml", "extends: 3\n"))).rejects.toThrow(/extends: 3 is not a path/);
  await expect(readConfigFile(write("d.yaml", "extends: none.yaml\n"))).rejects.toMatchObject({
    code: "file-not-found",
  });
});

test("the same base twice is no circle", async () => {
  write("root.yaml", "seed: 4\n");
  write("left.yaml", "extends: root.yaml\n");
  write("right.yaml", "extends: root.yaml\n");
  expect((await readConfigFile(write("both.yaml", "extends: [left.yaml, right.yaml]\n"))).values).toEqual({
    seed: 4,
  });
});

test("environment variables: named ones, with a default, escaped, never secrets", async () => {
  vi.stubEnv("CORPUS", `/data/${variable("HOME")}`);
  const read = async (text: string) =>
    (await readConfigFile(write("env.yaml", `data: '${text}'\n`))).values.data;
  expect(await read(`${variable("CORPUS")}/x.jsonl`)).toBe(`/data/${variable("HOME")}/x.jsonl`);
  expect(await read(variable("NOT_SET_HERE:-small.txt"))).toBe("small.txt");
  expect(await read(`$${variable("CORPUS")}`)).toBe(variable("CORPUS"));
  await expect(read(variable("NOT_SET_HERE"))).rejects.toThrow(/data: the environment variable NOT_SET_HERE/);
  await expect(read(variable("HF_TOKEN"))).rejects.toThrow(/looks like a secret/);
  await expect(read(variable("a b"))).rejects.toThrow(/does not name a variable/);
});

test("--set is read as YAML, by dotted paths, without reaching a prototype", () => {
  expect(
    parseOverrides([
      "lr=1e-3",
      "targets=[q_proj, v_proj]",
      "rankPattern.q_proj=4",
      "rankPattern.k_proj=2",
      "data=a=b",
    ]),
  ).toEqual({
    lr: 1e-3,
    targets: ["q_proj", "v_proj"],
    rankPattern: { q_proj: 4, k_proj: 2 },
    data: "a=b",
  });
  parseOverrides(["__proto__.polluted=1"]);
  expect(({} as Record<string, unknown>).polluted).toBeUndefined();
  for (const text of ["rank", "=3", "a..b=1", "a=[1"]) expect(() => parseOverrides([text])).toThrow(/--set/);
});

test("flags win over --set, that over the file; every value knows where it came from", async () => {
  const path = write("origins.yaml", "lr: 1\nrank: 2\nrankPattern: { q_proj: 2 }\n");
  const given = {
    flags: { model: "m", data: "d", out: "o", seed: 3 },
    set: parseOverrides(["rank=16", "rankPattern.v_proj=4"]),
    file: await readConfigFile(path),
  };
  const options = resolveOptions(runSchema("lora"), given);
  expect(options).toMatchObject({ lr: 1, rank: 16, seed: 3, rankPattern: { q_proj: 2, v_proj: 4 } });
  expect(originsOf(options, given)).toMatchObject({
    model: "--model",
    lr: `${path}:1`,
    rank: "--set",
    rankPattern: `${path}:3, --set`,
    batchSize: "default",
  });
  const twice = { ...given, set: { seed: 1 } };
  expect(() => resolveOptions(runSchema("lora"), twice)).toThrow(
    /seed is given twice: --seed and --set seed/,
  );
  const wrong = { flags: { model: "m", data: "d", out: "o" }, set: { rank: 0 } };
  expect(() => resolveOptions(runSchema("lora"), wrong)).toThrow(/--set rank: 0/);
});
