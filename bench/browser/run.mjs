// Training in Chromium on plain WASM: Tunesmith, TensorFlow.js and jax-js with the same model, numbers and data.
//   node bench/browser/run.mjs [--rounds 3] [--steps 8] [--batch 4] [--length 128] [--only tunesmith,jax]
// The peers are installed into .cache/bench-browser the first time.
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs } from "node:util";
import { build } from "esbuild";
import { chromium } from "playwright-core";
import { ensureChromium } from "../../scripts/ensure-chromium.mjs";
import { serve } from "../../test/browser/serve.mjs";
import { makeWorkload, parameterCount, versionIn } from "./workload.mjs";

const root = fileURLToPath(new URL("../../", import.meta.url));
const here = join(root, "bench/browser");
const cache = join(root, ".cache/bench-browser");
const modules = join(cache, "node_modules");

const PEERS = {
  "@tensorflow/tfjs-core": "4.22.0",
  "@tensorflow/tfjs-backend-cpu": "4.22.0",
  "@tensorflow/tfjs-backend-wasm": "4.22.0",
  "@jax-js/jax": "0.1.25",
};
/** Each library's page: its script and which of the script's trainers runs. */
const PAGES = {
  tunesmith: { script: "tunesmith", trainer: "library" },
  tfjs: { script: "tfjs", trainer: "library" },
  "tfjs-plain": { script: "tfjs", trainer: "plainLibrary" },
  jax: { script: "jax", trainer: "library" },
  "jax-jit": { script: "jax", trainer: "compiledLibrary" },
};

function installPeers(say) {
  const missing = Object.entries(PEERS).filter(
    ([name, version]) => !existsSync(join(modules, name)) || versionIn(modules, name) !== version,
  );
  if (missing.length === 0) return;
  say(`installing ${missing.map(([name]) => name).join(", ")} into ${cache}`);
  mkdirSync(cache, { recursive: true });
  writeFileSync(join(cache, "package.json"), '{ "private": true }\n');
  const wanted = missing.map(([name, version]) => `${name}@${version}`);
  execFileSync(
    "npm",
    ["install", "--prefix", cache, "--no-audit", "--no-fund", "--ignore-scripts", ...wanted],
    {
      stdio: ["ignore", "ignore", "inherit"],
    },
  );
}

async function bundle() {
  await build({
    bundle: true,
    format: "esm",
    target: "es2022",
    logLevel: "error",
    absWorkingDir: root,
    platform: "browser",
    splitting: true,
    minify: true,
    conditions: ["browser", "import"],
    mainFields: ["browser", "module", "main"],
    nodePaths: [modules],
    entryPoints: [
      ...["tunesmith", "tfjs", "jax"].map((name) => join(here, `pages/${name}.mjs`)),
      join(root, "dist/runtime/ort/web-worker-wasm.js"),
      join(root, "dist/runtime/ort/web-worker-webgpu.js"),
    ],
    entryNames: "[name]",
    alias: { "@huggingface/hub": join(root, "node_modules/@huggingface/hub/dist/browser/index.mjs") },
    outdir: join(cache, "pages"),
  });
}

/** A library in a browser of its own, so that memory and processor time are its own too. */
async function openLibrary(name, origin) {
  const browser = await chromium.launch({
    executablePath: ensureChromium(),
    headless: true,
    args: ["--no-sandbox", "--disable-background-networking"],
  });
  const page = await browser.newPage();
  await page.goto(`${origin}/`);
  const renderer = await rendererOf(browser);
  const call = (method) =>
    page.evaluate(
      async ({ script, trainer, method: what }) => (await import(`/pages/${script}.js`))[trainer][what](),
      { ...PAGES[name], method },
    );
  return { call, renderer, close: () => browser.close() };
}

/** Processor seconds so far and peak memory of the process that runs the page, its workers and its WASM threads. */
async function rendererOf(browser) {
  const session = await browser.newBrowserCDPSession();
  const renderers = async () =>
    (await session.send("SystemInfo.getProcessInfo")).processInfo.filter(({ type }) => type === "renderer");
  return async () => {
    const [busiest] = (await renderers()).toSorted((a, b) => b.cpuTime - a.cpuTime);
    const status = `/proc/${busiest.id}/status`;
    const peak = existsSync(status) ? /VmHWM:\s+(\d+)/.exec(readFileSync(status, "utf8"))?.[1] : undefined;
    return { cpuSeconds: busiest.cpuTime, ...(peak ? { peakMb: Number(peak) / 1024 } : {}) };
  };
}

/** One round: every library starts, then they train in turn, step by step, so that all meet the same machine. */
async function runRound(origin, names, steps) {
  const opened = {};
  const reports = {};
  try {
    for (const name of names) {
      const library = await openLibrary(name, origin);
      opened[name] = library;
      const { seconds, isolated } = await library.call("start");
      const first = await library.call("step");
      reports[name] = {
        isolated,
        firstStepSeconds: seconds + first.seconds,
        losses: [first.loss],
        seconds: [],
      };
    }
    const before = {};
    for (let step = 1; step < steps; step++) {
      for (const name of names) {
        // The first step again warms up what a second use still compiles.
        if (step === 2) before[name] = await opened[name].renderer();
        const { loss, seconds } = await opened[name].call("step");
        reports[name].losses.push(loss);
        if (step > 1) reports[name].seconds.push(seconds);
      }
    }
    for (const name of names) {
      const { cpuSeconds, peakMb } = await opened[name].renderer();
      reports[name].cpuSeconds = (cpuSeconds - before[name].cpuSeconds) / (steps - 2);
      reports[name].peakMb = peakMb;
    }
    return reports;
  } finally {
    for (const { close } of Object.values(opened)) await close();
  }
}

/**
 * Reports of each library, one per round: `{losses, seconds, firstStepSeconds, cpuSeconds, peakMb}`, the seconds of each
 * step from the third on. Throws when losses differ, which would mean that they do not compute the same.
 */
export async function browserReports({
  say,
  rounds,
  steps,
  batch,
  length,
  names = ["tunesmith", "tfjs", "jax"],
}) {
  installPeers(say);
  await bundle();
  const { description, bytes } = await makeWorkload({ batch, length });
  const server = await serve(
    {
      "/pages/": join(cache, "pages"),
      "/ort/": join(root, "node_modules/onnxruntime-web/dist"),
      "/tfjs/": join(modules, "@tensorflow/tfjs-backend-wasm/dist"),
    },
    { "/work.json": JSON.stringify(description), "/work.bin": bytes },
  );
  const reports = Object.fromEntries(names.map((name) => [name, []]));
  try {
    for (let round = 0; round < rounds; round++) {
      const done = await runRound(server.origin, names, steps);
      for (const name of names) reports[name].push(done[name]);
    }
  } finally {
    server.close();
  }
  checkSame(reports);
  return { reports, parameters: parameterCount(description), versions: versions() };
}

/** The first loss to 1e-4, and later ones, which gradients and optimiser have shaped, to 1e-3. */
function checkSame(reports) {
  const [[reference, [{ losses: expected }]], ...others] = Object.entries(reports);
  for (const [name, [{ losses }]] of others) {
    losses.forEach((loss, step) => {
      const difference = Math.abs(loss / expected[step] - 1);
      if (difference <= (step === 0 ? 1e-4 : 1e-3)) return;
      throw new Error(
        `${name} does not compute what ${reference} does: losses of step ${step + 1} are ${loss} and ${expected[step]}`,
      );
    });
  }
}

const versions = () => ({
  ...Object.fromEntries(Object.keys(PEERS).map((name) => [name, versionIn(modules, name)])),
  "onnxruntime-web": versionIn(join(root, "node_modules"), "onnxruntime-web"),
});

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { values } = parseArgs({
    options: {
      rounds: { type: "string", default: "1" },
      steps: { type: "string", default: "8" },
      batch: { type: "string", default: "4" },
      length: { type: "string", default: "128" },
      only: { type: "string" },
    },
  });
  const number = (name) => Number(values[name]);
  const result = await browserReports({
    say: (text) => process.stderr.write(`${text}\n`),
    ...{ rounds: number("rounds"), steps: number("steps"), batch: number("batch"), length: number("length") },
    ...(values.only ? { names: values.only.split(",") } : {}),
  });
  console.log(JSON.stringify(result));
}
