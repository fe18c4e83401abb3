#!/usr/bin/env node
// Runs the command line from dist. In a source checkout dist is made first, and again when a source file is newer.
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, renameSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const root = fileURLToPath(new URL("../", import.meta.url));
const entry = join(root, "dist/cli/main.js");

function isStale() {
  const source = join(root, "src");
  const compiler = join(root, "node_modules/typescript/bin/tsc");
  if (!existsSync(source) || !existsSync(compiler)) return false;
  if (!existsSync(entry)) return true;
  const built = statSync(entry).mtimeMs;
  return readdirSync(source, { recursive: true }).some(
    (name) => !/\.test\.ts$/.test(name) && statSync(join(source, name)).mtimeMs > built,
  );
}

/** Compiled beside and moved into place, so that commands started together never see half of it. */
function build() {
  process.stderr.write("building tunesmith from its sources (once)\n");
  const fresh = join(root, ".cache", `dist-${process.pid}`);
  mkdirSync(fresh, { recursive: true });
  const compiler = join(root, "node_modules/typescript/bin/tsc");
  // `#io` and `#ort` are looked up in src: dist, where they lead otherwise, is what is being made.
  const args = [
    compiler,
    "-p",
    join(root, "tsconfig.json"),
    "--outDir",
    fresh,
    "--customConditions",
    "source",
  ];
  const result = spawnSync(process.execPath, args, { encoding: "utf8" });
  if (!existsSync(join(fresh, "cli/main.js"))) {
    process.stderr.write(`error[internal]: the sources do not compile\n${result.stdout}${result.stderr}`);
    process.exit(1);
  }
  if (result.status !== 0) process.stderr.write(`the sources have type errors:\n${result.stdout}`);
  try {
    if (existsSync(join(root, "dist"))) renameSync(join(root, "dist"), `${fresh}-old`);
    renameSync(fresh, join(root, "dist"));
  } catch (error) {
    // Another command, started at the same time, has put its own there.
    if (!["ENOENT", "ENOTEMPTY", "EEXIST"].includes(error.code)) throw error;
  }
  for (const left of [fresh, `${fresh}-old`]) rmSync(left, { recursive: true, force: true });
}

if (isStale()) build();
const { main } = await import(pathToFileURL(entry).href);
process.exitCode = await main(process.argv.slice(2));
