// All static checks: types, format and lint, floors, examples, JSDoc, documents. `npm run check`; the tests run them too.
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../", import.meta.url));
const bin = (name) => `node_modules/${name}`;

const checks = [
  ["types", [bin("typescript/bin/tsc"), "-p", "tsconfig.test.json"]],
  ["format and lint", [bin("@biomejs/biome/bin/biome"), "check", "."]],
  ["floors", ["scripts/check-floors.mjs"]],
  ["examples", ["scripts/check-examples.mjs"]],
  ["JSDoc", ["scripts/check-jsdoc.mjs"]],
  ["documents", ["scripts/generate-docs.mjs", "--check"]],
];

/** Runs every check, even after one failed, and counts. */
export function runChecks() {
  const counts = { passed: 0, failed: 0 };
  for (const [name, args] of checks) {
    const { status } = spawnSync(process.execPath, args, { cwd: root, stdio: "inherit" });
    counts[status === 0 ? "passed" : "failed"]++;
    console.log(`${status === 0 ? "ok  " : "FAIL"} check: ${name}`);
  }
  return counts;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) process.exit(runChecks().failed > 0 ? 1 : 0);
