import { mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, test } from "vitest";
import { commands } from "../commands.js";
import { optionsMarkdown } from "./docs.js";
import { readConfigFile } from "./file.js";
import { resolveOptions } from "./resolve.js";
import { configJsonSchema, runSchema, trainSchema } from "./schema.js";

const schema = runSchema("lora");
const needed = { model: "m", data: "d", out: "o" };
const file = (values: Record<string, unknown>) => ({ path: "run.yaml", values, places: {} });

test("flags win over the file, the file over defaults", () => {
  const options = resolveOptions(schema, {
    flags: { ...needed, rank: 4 },
    file: file({ rank: 16, alpha: 32, seed: 7 }),
  });
  expect(options).toMatchObject({ rank: 4, alpha: 32, seed: 7, batchSize: 4, method: "lora" });
});

test("a list in one text means the same in a file as on the command line", () => {
  const read = (targets: unknown) =>
    resolveOptions(schema, { flags: needed, file: file({ targets }) }).targets;
  expect(read("q_proj,v_proj")).toEqual(["q_proj", "v_proj"]);
  expect(read(["q_proj"])).toEqual(["q_proj"]);
  expect(read("all-linear")).toBe("all-linear");
});

test("unknown keys are errors with near names", () => {
  const given = { flags: needed, file: file({ bathSize: 2 }) };
  expect(() => resolveOptions(schema, given)).toThrow(/run\.yaml: unknown key 'bathSize'[\s\S]*batchSize/);
});

test("an option of another method is an error", () => {
  const given = { flags: { ...needed, method: "full", rank: 4 } };
  expect(() => resolveOptions(runSchema("full"), given)).toThrow(/--rank is not an option/);
});

test("wrong values name the flag or the file's key, and what is allowed", () => {
  const fails = (flags: Record<string, unknown>, values: Record<string, unknown> = {}) => {
    try {
      resolveOptions(schema, { flags: { ...needed, ...flags }, file: file(values) });
    } catch (error) {
      return (error as Error).message;
    }
    return "no error";
  };
  expect(fails({ schedule: "cosinus" })).toMatch(
    /--schedule: "cosinus" is not one of constant, linear, cosine/,
  );
  expect(fails({ rank: "x" })).toMatch(/--rank: "x": expected number/);
  expect(fails({}, { rank: 0 })).toMatch(/run\.yaml: rank: 0/);
  expect(fails({}, { layers: [0, "one"] })).toMatch(/run\.yaml: layers \(1\)/);
  expect(fails({ prefixCache: "lots" })).toMatch(/--prefix-cache/);
});

test("a missing option is named", () => {
  expect(() => resolveOptions(schema, { flags: { model: "m", out: "o" } })).toThrow(/--data is missing/);
});

test("configuration files are YAML or JSON mappings", async () => {
  const folder = mkdtempSync(join(tmpdir(), "tunesmith-config-"));
  const write = (name: string, text: string) => {
    writeFileSync(join(folder, name), text);
    return join(folder, name);
  };
  const yaml = await readConfigFile(write("a.yaml", "rank: 8\ntargets: [q_proj]\n"));
  expect(yaml.values).toEqual({ rank: 8, targets: ["q_proj"] });
  expect((await readConfigFile(write("a.json", '{"rank": 8}'))).values).toEqual({ rank: 8 });
  const broken = write("b.yaml", "rank: [8\n");
  await expect(readConfigFile(broken)).rejects.toMatchObject({ code: "config-invalid" });
  await expect(readConfigFile(write("c.yaml", "- 1\n"))).rejects.toThrow(/does not hold a mapping/);
  await expect(readConfigFile(join(folder, "none.yaml"))).rejects.toMatchObject({ code: "file-not-found" });
});

test("the published schema is the one in use", () => {
  const path = new URL("../../../schema/tunesmith.schema.json", import.meta.url);
  const published: unknown = JSON.parse(readFileSync(path, "utf8"));
  // When this fails: npm run docs
  expect(published).toEqual(JSON.parse(JSON.stringify(configJsonSchema())));
});

test("the tables of docs/cli.md are those in use", () => {
  const page = readFileSync(new URL("../../../docs/cli.md", import.meta.url), "utf8");
  // When this fails: npm run docs
  expect(page).toContain(optionsMarkdown(commands));
});

test("no option of a method has the name of a run's", () => {
  const run = new Set(Object.keys(trainSchema.shape));
  for (const name of ["lora", "full"]) {
    const all = Object.keys(runSchema(name).shape);
    expect(new Set(all).size).toBe(all.length);
    expect(all.filter((key) => run.has(key)).length).toBe(run.size);
  }
});
