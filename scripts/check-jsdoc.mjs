// Every value that a public module exports (the `exports` of package.json) has a JSDoc block where it is declared.
import { existsSync, readFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../", import.meta.url));
const { exports } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
const RE_EXPORT = /^export (?:\* as (\w+)|\*|\{([^}]*)\}) from "(\.[^"]+)";/gm;

const texts = new Map();
function textOf(file) {
  if (!texts.has(file)) texts.set(file, readFileSync(file, "utf8"));
  return texts.get(file);
}

/** The source of an import of ours; undefined for what is not TypeScript. */
function sourceOf(from, specifier) {
  const file = join(dirname(from), specifier.replace(/\.js$/, ".ts"));
  return existsSync(file) ? file : undefined;
}

/** `a as b` of an export list: the name in the file, and the name outside; types are left out. */
function namesOf(list) {
  return list
    .split(",")
    .map((item) => item.trim())
    .filter((item) => item !== "" && !item.startsWith("type "))
    .map((item) => item.split(" as ")[0].trim());
}

/** Every exported value as [file of its declaration, its name there]. */
function* exportedFrom(file, wanted) {
  const text = textOf(file);
  for (const [, , list, specifier] of text.matchAll(RE_EXPORT)) {
    const target = sourceOf(file, specifier);
    if (!target) continue;
    const names =
      list === undefined ? undefined : namesOf(list).filter((name) => !wanted || wanted.has(name));
    if (names?.length === 0) continue;
    yield* exportedFrom(target, names ? new Set(names) : wanted);
  }
  for (const [, name] of text.matchAll(/^export (?:async )?(?:function\*?|const|class) (\w+)/gm)) {
    if (!wanted || wanted.has(name)) yield [file, name];
  }
}

/** Whether the first declaration of `name` follows a JSDoc block. */
function isDocumented(file, name) {
  const text = textOf(file);
  const at = text.search(new RegExp(`^export (?:async )?(?:function\\*?|const|class) ${name}\\b`, "m"));
  return /\*\/\s*$/.test(text.slice(0, at));
}

const entries = Object.values(exports).flatMap((entry) => (entry.source ? [join(root, entry.source)] : []));
const seen = new Set();
const problems = [];
for (const entry of entries) {
  for (const [file, name] of exportedFrom(entry)) {
    const key = `${file}#${name}`;
    if (seen.has(key)) continue;
    seen.add(key);
    if (!isDocumented(file, name))
      problems.push(`${relative(root, file)}: '${name}' is public and has no JSDoc`);
  }
}
for (const problem of problems) console.error(problem);
console.log(`jsdoc: ${seen.size} public values, ${problems.length} without documentation`);
process.exit(problems.length > 0 ? 1 : 0);
