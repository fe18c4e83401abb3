// Finds Chromium for the browser tests, and installs Debian's where that is possible: as root, with apt.
// Run it by itself to prepare a machine: node scripts/ensure-chromium.mjs
import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";

const candidates = [
  process.env.TUNESMITH_CHROMIUM,
  "/usr/bin/chromium",
  "/usr/bin/chromium-browser",
  "/usr/bin/google-chrome",
  "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
];

const find = () => candidates.find((path) => path && existsSync(path));

function install() {
  const env = { ...process.env, DEBIAN_FRONTEND: "noninteractive" };
  const run = (...args) =>
    execFileSync("/usr/bin/apt-get", args, { env, stdio: ["ignore", "ignore", "inherit"] });
  console.log("installing chromium with apt-get ...");
  run("update", "-qq");
  run("install", "-y", "-qq", "--no-install-recommends", "chromium");
}

/** The path of a Chromium or Chrome; throws, saying what to do, when there is none and none can be installed. */
export function ensureChromium() {
  const found = find();
  if (found) return found;
  if (process.getuid?.() === 0 && existsSync("/usr/bin/apt-get")) {
    install();
    const installed = find();
    if (installed) return installed;
  }
  throw new Error(
    "no Chromium for the browser tests. Install it (Debian: apt-get install chromium), or set TUNESMITH_CHROMIUM to the path of a Chrome or Chromium.",
  );
}

if (process.argv[1] === fileURLToPath(import.meta.url)) console.log(ensureChromium());
