// All tests: static checks, the tests in Node, the tests in Chromium. The last line sums them up:
// `N passed, N failed`. `--no-browser` leaves the last part out.
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { runChecks } from "./check.mjs";
import { ensureChromium } from "./ensure-chromium.mjs";

const root = fileURLToPath(new URL("../", import.meta.url));
const total = { passed: 0, failed: 0, skipped: 0 };

function count(part, { passed, failed, skipped = 0 }) {
  total.passed += passed;
  total.failed += failed;
  total.skipped += skipped;
  console.log(`${part}: ${passed} passed, ${failed} failed, ${skipped} skipped`);
}

/** Vitest counts tests; a file that does not even load counts as one failure. */
function runVitest() {
  const report = join(root, ".cache/vitest.json");
  mkdirSync(join(root, ".cache"), { recursive: true });
  rmSync(report, { force: true });
  const args = [
    "node_modules/vitest/vitest.mjs",
    "run",
    "--reporter=default",
    "--reporter=json",
    `--outputFile.json=${report}`,
  ];
  const { status } = spawnSync(process.execPath, args, { cwd: root, stdio: "inherit" });
  if (!existsSync(report)) return { passed: 0, failed: 1 };
  const result = JSON.parse(readFileSync(report, "utf8"));
  const broken = result.testResults.filter(
    (file) => file.status === "failed" && file.assertionResults.length === 0,
  ).length;
  const failed = result.numFailedTests + broken;
  return {
    passed: result.numPassedTests,
    failed: status !== 0 && failed === 0 ? 1 : failed,
    skipped: result.numPendingTests + (result.numTodoTests ?? 0),
  };
}

async function runBrowser() {
  try {
    const { runBrowserTests } = await import("../test/browser/run.mjs");
    return await runBrowserTests();
  } catch (error) {
    console.error(error);
    return { passed: 0, failed: 1 };
  }
}

const browser = !process.argv.includes("--no-browser");
if (browser) {
  // First, so that the tests in Node that drive a browser find it too.
  try {
    ensureChromium();
  } catch (error) {
    console.error(error.message);
  }
}
count("checks", runChecks());
count("node", runVitest());
if (browser) count("browser", await runBrowser());
if (total.skipped > 0) console.log(`${total.skipped} skipped`);
console.log(`${total.passed} passed, ${total.failed} failed`);
process.exit(total.failed > 0 ? 1 : 0);
