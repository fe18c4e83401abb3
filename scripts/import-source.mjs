// Imports TypeScript sources of the repository into a script: bundled as they are now, packages stay outside.
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { build } from "esbuild";

const root = fileURLToPath(new URL("../", import.meta.url));

/** What the module `contents` exports; its imports are relative to the repository's root. */
export async function importSource(name, contents) {
  const { dependencies, devDependencies } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  const outfile = join(root, ".cache/scripts", `${name}.mjs`);
  await build({
    stdin: { contents, resolveDir: root, loader: "ts" },
    outfile,
    bundle: true,
    format: "esm",
    platform: "node",
    conditions: ["source"],
    external: Object.keys({ ...dependencies, ...devDependencies }).flatMap((key) => [key, `${key}/*`]),
    logLevel: "warning",
  });
  return import(`${pathToFileURL(outfile).href}?${Date.now()}`);
}
