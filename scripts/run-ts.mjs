// Runs one of the repository's TypeScript programs from source: node scripts/run-ts.mjs FILE.ts [ARGUMENTS]
// The file is bundled with the library's sources; packages stay outside. Nothing has to be built before.
import { spawnSync } from "node:child_process";
import { copyFileSync, readFileSync } from "node:fs";
import { basename, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const root = fileURLToPath(new URL("../", import.meta.url));
const [file, ...rest] = process.argv.slice(2);
if (!file) {
  console.error("usage: node scripts/run-ts.mjs FILE.ts [ARGUMENTS]");
  process.exit(2);
}
const { dependencies, devDependencies } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
const outfile = join(root, ".cache/run", `${basename(file, ".ts")}.mjs`);
await build({
  entryPoints: [resolve(file)],
  outfile,
  bundle: true,
  platform: "node",
  format: "esm",
  target: "node20",
  sourcemap: "inline",
  conditions: ["source"],
  external: Object.keys({ ...dependencies, ...devDependencies }).flatMap((name) => [name, `${name}/*`]),
  logLevel: "warning",
});
// The runtime starts it as a file beside the code that asks for it.
copyFileSync(join(root, "src/runtime/ort/worker.mjs"), join(root, ".cache/run/worker.mjs"));
const { status } = spawnSync(process.execPath, ["--enable-source-maps", outfile, ...rest], {
  stdio: "inherit",
  env: { ...process.env, TUNESMITH_ROOT: root },
});
process.exit(status ?? 1);
