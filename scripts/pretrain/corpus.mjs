// The text the default model is trained on: TypeScript declarations and sources of permissively licensed packages, as
// `npm ci` puts them into node_modules. Nothing is downloaded; the same package-lock.json gives the same corpus.
import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join, sep } from "node:path";
import { fileURLToPath } from "node:url";
import { listFiles } from "../files.mjs";

const modules = fileURLToPath(new URL("../../node_modules/", import.meta.url));

/** Only text under these licences is read; a package of another licence is an error, not an omission. */
const LICENCES = new Set([
  "MIT",
  "Apache-2.0",
  "ISC",
  "BSD-2-Clause",
  "BSD-3-Clause",
  "(MIT OR CC0-1.0)",
  "(Apache-2.0 AND BSD-3-Clause)",
]);

const PACKAGES = [
  ...typescriptLibraries(),
  "@bufbuild/protobuf",
  "@huggingface/hub",
  "@huggingface/jinja",
  "@huggingface/tokenizers",
  "@jridgewell/sourcemap-codec",
  "@noble/hashes",
  "@standard-schema/spec",
  "@types/chai",
  "@types/cli-progress",
  "@types/deep-eql",
  "@types/estree",
  "@types/node",
  "@vitest/expect",
  "@vitest/mocker",
  "@vitest/pretty-format",
  "@vitest/runner",
  "@vitest/snapshot",
  "@vitest/spy",
  "@vitest/utils",
  "commander",
  "csv-parse",
  "es-module-lexer",
  "esbuild",
  "expect-type",
  "fdir",
  "flatbuffers",
  "global-agent",
  "long",
  "magic-string",
  "nanoid",
  "onnxruntime-common",
  "onnxruntime-web",
  "playwright-core",
  "postcss",
  "protobufjs",
  "rolldown",
  "serialize-error",
  "std-env",
  "tinybench",
  "tinyexec",
  "tinyglobby",
  "type-fest",
  "typescript",
  "undici-types",
  "vite",
  "vitest",
  "yaml",
  "zod",
];

/** TypeScript 7 keeps lib.*.d.ts in the package of the platform; they are the same on every one. */
function typescriptLibraries() {
  return readdirSync(join(modules, "@typescript")).map((name) => `@typescript/${name}`);
}

/** Tests repeat themselves; the worker library repeats the DOM's; locales and tables are data. */
const SKIPPED =
  /(^|\/)(tests?|__tests__|benchmarks?|locales)\/|lib\.webworker\.|\.test\.ts$|\.spec\.ts$|\/generated\//;
const MAX_MEAN_LINE = 200;
const MAX_FILE_BYTES = 3 * 2 ** 20;
/** Documents of about this many characters, cut at blank lines, so that no single file dominates an epoch's order. */
const DOCUMENT_CHARS = 6000;
/** Never trained on. Whole packages, so that no declaration's source or twin is seen in training. */
const HELD_OUT = new Set(["@huggingface/tokenizers", "commander", "magic-string", "tinybench", "tinyglobby"]);

const sha256 = (content) => createHash("sha256").update(content).digest("hex");

/**
 * The corpus: documents to train on, documents held out, and where they come from.
 * @returns {{ train: string[], heldOut: string[], provenance: object }}
 */
export function collectCorpus() {
  const seen = new Set();
  const [train, heldOut, packages] = [[], [], []];
  const whole = createHash("sha256");
  for (const name of PACKAGES) {
    const { version, license } = JSON.parse(readFileSync(join(modules, name, "package.json"), "utf8"));
    if (!LICENCES.has(license))
      throw new Error(`${name} is under ${license}, which is not among those accepted`);
    let [files, bytes] = [0, 0];
    for (const file of filesOf(name)) {
      const text = clean(readFileSync(join(modules, name, file), "utf8"));
      if (text === undefined || seen.has(sha256(text))) continue;
      seen.add(sha256(text));
      const path = `${label(name)}/${file.split(sep).join("/")}`;
      (HELD_OUT.has(name) ? heldOut : train).push(...documents(text));
      whole.update(`${path}\0${text}\0`);
      files++;
      bytes += Buffer.byteLength(text);
    }
    const heldOutPart = HELD_OUT.has(name) ? { heldOut: true } : {};
    packages.push({ package: label(name), version, licence: license, files, bytes, ...heldOutPart });
  }
  const sum = (list) => list.reduce((total, text) => total + Buffer.byteLength(text), 0);
  return {
    train,
    heldOut,
    provenance: {
      sha256: whole.digest("hex"),
      bytes: { train: sum(train), heldOut: sum(heldOut) },
      documents: { train: train.length, heldOut: heldOut.length },
      packages,
    },
  };
}

const label = (name) => (name.startsWith("@typescript/") ? "typescript (platform package)" : name);

function filesOf(name) {
  const root = join(modules, name);
  const files = listFiles(root, (file) => {
    const path = file.split(sep).join("/");
    return /\.[mc]?ts$/.test(path) && !/(^|\/)node_modules\//.test(path) && !SKIPPED.test(path);
  });
  // Declarations for CommonJS repeat those for ES modules.
  const twin = (file) => ["ts", "mts"].some((end) => existsSync(join(root, file.replace(/cts$/, end))));
  return files.filter((file) => !file.endsWith(".cts") || !twin(file));
}

/** A file's text without its licence header, or undefined for what is generated, minified or huge. */
function clean(text) {
  if (text.length > MAX_FILE_BYTES) return undefined;
  const body = text
    .replace(/^\uFEFF/, "")
    .replaceAll("\r\n", "\n")
    .replace(/^\s*\/\*[\s\S]*?\*\/\s*/, (comment) => (/copyright|licen[sc]e/i.test(comment) ? "" : comment))
    .replace(/^(\/\/.*(copyright|licen[sc]e).*\n)+/gim, "")
    .replace(/\n\/\/# sourceMappingURL=.*\n?$/, "\n")
    .trim();
  if (body.length < 100 || body.length / body.split("\n").length > MAX_MEAN_LINE) return undefined;
  return `${body}\n`;
}

/** Cuts a text at blank lines, or at line ends where there are none. */
function documents(text) {
  const parts = [];
  let rest = text;
  while (rest.length > 1.5 * DOCUMENT_CHARS) {
    const blank = rest.indexOf("\n\n", DOCUMENT_CHARS);
    const line = rest.indexOf("\n", DOCUMENT_CHARS);
    const end = blank > 0 && blank < 1.5 * DOCUMENT_CHARS ? blank + 2 : line + 1;
    if (end <= 0 || end >= rest.length) break;
    parts.push(rest.slice(0, end));
    rest = rest.slice(end);
  }
  return [...parts, rest];
}
