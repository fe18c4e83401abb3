// Type-checks every ```ts block of the sources' JSDoc and of the Markdown documents in one run of the compiler, as a
// program outside the library would see it: `tunesmith/...` resolves through the package's own exports.
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { listFiles } from "./files.mjs";

const root = fileURLToPath(new URL("../", import.meta.url));
const folder = join(root, ".cache/examples");

/** The ```ts blocks of a text with the line they begin on; `prefix` is what stands before each line (JSDoc). */
function blocksOf(text, prefix) {
  const blocks = [];
  let open;
  text.split("\n").forEach((raw, index) => {
    const line = raw.replace(prefix, "");
    if (open && /^\s*```\s*$/.test(line)) {
      blocks.push(open);
      open = undefined;
    } else if (open) open.lines.push(line);
    else if (/^\s*```ts\s*$/.test(line)) open = { line: index + 2, lines: [] };
  });
  return blocks;
}

const docComments = (text) =>
  text.replace(/\/\*\*[\s\S]*?\*\/|[^\n]/g, (part) => (part.startsWith("/**") ? part : ""));

function collect() {
  const sources = listFiles(join(root, "src"), (name) => name.endsWith(".ts") && !name.endsWith(".test.ts"));
  const documents = [
    ...["README.md", "CONTRIBUTING.md"].filter((name) => existsSync(join(root, name))),
    ...listFiles(join(root, "docs"), (name) => name.endsWith(".md")).map((name) => `docs/${name}`),
  ];
  const read = (name) => readFileSync(join(root, name), "utf8");
  return [
    ...sources
      .map((name) => `src/${name}`)
      .flatMap((name) => blocksOf(docComments(read(name)), /^\s*\* ?/).map((block) => ({ name, ...block }))),
    ...documents.flatMap((name) => blocksOf(read(name), /^/).map((block) => ({ name, ...block }))),
  ];
}

/** One module per block, its lines where they are in the original, so that the compiler's line numbers are right. */
function writeModules(blocks) {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  const places = new Map();
  blocks.forEach(({ name, line, lines }, index) => {
    const file = `example-${index}.ts`;
    writeFileSync(join(folder, file), `${"\n".repeat(line - 1)}${lines.join("\n")}\nexport {};\n`);
    places.set(file, name);
  });
  const config = {
    extends: "../../tsconfig.json",
    compilerOptions: {
      noEmit: true,
      rootDir: "../..",
      customConditions: ["source"],
      noUnusedLocals: false,
      noUnusedParameters: false,
    },
    include: ["*.ts"],
    exclude: [],
  };
  writeFileSync(join(folder, "tsconfig.json"), JSON.stringify(config));
  return places;
}

function compile(places) {
  const tsc = join(root, "node_modules/typescript/bin/tsc");
  try {
    execFileSync(process.execPath, [tsc, "-p", join(folder, "tsconfig.json"), "--pretty", "false"], {
      encoding: "utf8",
      cwd: folder,
    });
    return [];
  } catch (error) {
    const lines = String(error.stdout).split("\n");
    const named = lines.flatMap((line) => {
      const match = /^(example-\d+\.ts)\((\d+),(\d+)\): (.*)$/.exec(line);
      return match ? [`${places.get(match[1])}:${match[2]}: ${match[4]}`] : [];
    });
    return named.length > 0 ? named : lines.filter((line) => line.trim() !== "").slice(0, 10);
  }
}

const blocks = collect();
const problems = blocks.length > 0 ? compile(writeModules(blocks)) : [];
for (const problem of problems) console.error(problem);
console.log(`examples: ${blocks.length} blocks, ${problems.length} errors`);
process.exit(problems.length > 0 ? 1 : 0);
