// The library is a stack of floors (folders of src); a floor may import only floors below it. `node:` modules appear
// only where the platforms differ: src/io, the Node side of the runtime, and the command line.
import { readFileSync } from "node:fs";
import { dirname, join, relative, sep } from "node:path";
import { fileURLToPath } from "node:url";
import { listFiles } from "./files.mjs";

const floors = [
  "errors",
  "io",
  "tensor",
  "graph",
  "autodiff",
  "runtime",
  "models",
  "data",
  "training",
  "methods",
  "recipes",
  "cli",
];
const aliases = { "#io": "io", "#ort": "runtime" };
const mayUseNode = /^(io\/|cli\/|runtime\/ort\/(node\.ts|worker\.mjs)$)/;
const IMPORT = /(?:\bfrom|\bimport)\s*\(?\s*["']([^"']+)["']/g;

const root = fileURLToPath(new URL("../src/", import.meta.url));

/** The entry file src/index.ts stands between the recipes and the command line. */
const levelOf = (file) => {
  const [folder, ...rest] = file.split(sep);
  if (rest.length === 0) return floors.indexOf("cli") - 0.5;
  return floors.indexOf(folder);
};

const withoutComments = (text) => text.replace(/\/\*[\s\S]*?\*\//g, "").replace(/^\s*\/\/.*$/gm, "");

function problemsOf(file) {
  const level = levelOf(file);
  if (level < 0) return [`${file}: '${file.split(sep)[0]}' is not a floor (${floors.join(", ")})`];
  const problems = [];
  for (const [, name] of withoutComments(readFileSync(join(root, file), "utf8")).matchAll(IMPORT)) {
    if (name.startsWith("node:") && !mayUseNode.test(file.split(sep).join("/"))) {
      problems.push(`${file} imports ${name}: only src/io, src/runtime/ort/node.ts and src/cli may`);
    }
    const target = name.startsWith(".")
      ? levelOf(relative(root, join(root, dirname(file), name)))
      : floors.indexOf(aliases[name]);
    if (name.startsWith(".") && target < 0) problems.push(`${file} imports ${name}, which is outside src`);
    if (target > level) problems.push(`${file} imports ${name}, which is above it`);
  }
  return problems;
}

const files = listFiles(root, (name) => /\.(ts|mjs)$/.test(name) && !/\.test\.ts$/.test(name));
const problems = files.flatMap(problemsOf);
for (const problem of problems) console.error(problem);
console.log(`floors: ${files.length} files, ${problems.length} imports in the wrong direction`);
process.exit(problems.length > 0 ? 1 : 0);
