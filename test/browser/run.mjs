// Browser tests: bundles the pages, serves them, runs them in Chromium, and fails on any request to another host.
// Usage: node test/browser/run.mjs [suite...]
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { createServer } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";
import { build } from "esbuild";
import { chromium } from "playwright-core";
import { ensureChromium } from "../../scripts/ensure-chromium.mjs";
import { runExample } from "./example.mjs";
import { serve } from "./serve.mjs";

const root = fileURLToPath(new URL("../../", import.meta.url));
const here = join(root, "test/browser");
const SUITE_LIMIT_MS = 180_000;
const EXAMPLE = "example";

/** What a Chromium asks for by itself whatever its flags; refused like everything, but not the pages' doing. */
const BROWSER_SERVICES = /^(https?:\/\/)?[a-z.-]+\.(googleapis|google|gstatic)\.com(:443)?(\/|$)/;

const common = { bundle: true, format: "esm", target: "es2022", logLevel: "error", absWorkingDir: root };

/** The pages and the worker, and the programs for Node that compute references and make files; all from the sources. */
async function bundle() {
  const folder = join(root, "node_modules/.cache/tunesmith-browser");
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  await build({
    ...common,
    entryPoints: [
      join(here, "page.ts"),
      ...["wasm", "webgpu"].map((name) => join(root, `src/runtime/ort/web-worker-${name}.ts`)),
    ],
    entryNames: "[name]",
    outdir: join(folder, "page"),
    platform: "browser",
    conditions: ["source", "browser", "import"],
    // The hub client names its browser build in a way that esbuild does not follow.
    alias: { "@huggingface/hub": join(root, "node_modules/@huggingface/hub/dist/browser/index.mjs") },
    splitting: true,
  });
  await build({
    ...common,
    entryPoints: ["reference.ts", "example-files.ts", "exported.ts"].map((name) => join(here, name)),
    outdir: folder,
    outExtension: { ".js": ".mjs" },
    platform: "node",
    conditions: ["source", "node", "import"],
    packages: "external",
  });
  return folder;
}

/** Everything but the loopback goes through this proxy, which answers nothing and remembers who asked. */
async function refusingProxy() {
  const asked = [];
  const server = createServer((request, response) => {
    asked.push(request.url);
    response.writeHead(403).end();
  });
  server.on("connect", (request, socket) => {
    asked.push(request.url);
    socket.end("HTTP/1.1 403 Forbidden\r\n\r\n");
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve(undefined)));
  return { asked, port: server.address().port, close: () => server.close() };
}

const launchArguments = (proxyPort) => [
  "--no-sandbox",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
  "--disable-quic",
  "--disable-extensions",
  "--disable-domain-reliability",
  "--disable-client-side-phishing-detection",
  "--allow-browser-signin=false",
  "--no-pings",
  "--gaia-url=http://localhost:9",
  "--component-updater=url-source=http://localhost:9/",
  "--apps-gallery-update-url=http://localhost:9",
  `--proxy-server=127.0.0.1:${proxyPort}`,
  "--enable-unsafe-webgpu",
  "--enable-features=Vulkan",
  "--use-webgpu-adapter=swiftshader",
  "--use-angle=swiftshader",
];

async function runSuite(context, origin, name, reload, foreign) {
  const results = [];
  const page = await context.newPage();
  page.on("request", (request) => {
    const url = request.url();
    if (!url.startsWith(origin) && !/^(blob|data):/.test(url)) foreign.push(url);
  });
  const failed = (message) =>
    results.push({ name: `suite ${name}`, status: "failed", milliseconds: 0, message });
  page.on("crash", () => failed("the page crashed"));
  page.on("pageerror", (error) => failed(`uncaught: ${error.message}`));
  await page.exposeFunction("reportResult", (result) => void results.push(result));
  await page.goto(`${origin}/`);
  const part = (reloaded) =>
    page.evaluate(async (how) => (await import("/page/page.js")).run(how.name, how.reloaded), {
      name,
      reloaded,
    });
  const both = async () => {
    await part(false);
    if (!reload) return;
    await page.reload();
    await part(true);
  };
  const run = both();
  let timer;
  const limit = new Promise((_, reject) => {
    timer = setTimeout(
      () => reject(new Error(`took longer than ${SUITE_LIMIT_MS / 1000} s`)),
      SUITE_LIMIT_MS,
    );
  });
  await Promise.race([run, limit]).catch((error) => failed(error.message));
  clearTimeout(timer);
  await page.close();
  if (results.length === 0) failed("no test ran");
  return results;
}

/** The page of examples/browser, which brings its own server. */
async function testExample(context, folder) {
  const programs = await import(pathToFileURL(join(folder, "example-files.mjs")).href);
  return runExample({ context, root, folder: join(folder, EXAMPLE), ...programs });
}

function print(suite, results) {
  for (const { name, status, milliseconds, message } of results) {
    const mark = { passed: "ok  ", failed: "FAIL", skipped: "skip" }[status];
    const quiet = status === "passed" && name.includes("operator:") && !process.argv.includes("--verbose");
    if (!quiet)
      console.log(`${mark} ${suite}: ${name} (${milliseconds} ms)${message ? ` - ${message}` : ""}`);
  }
}

/** Runs the suites; the numbers of passed, failed and skipped tests. */
export async function runBrowserTests(wanted = []) {
  const executablePath = ensureChromium();
  const folder = await bundle();
  const { reference } = await import(pathToFileURL(join(folder, "reference.mjs")).href);
  const { exported } = await import(pathToFileURL(join(folder, "exported.mjs")).href);
  const texts = {
    "/reference.json": JSON.stringify(await reference(pathToFileURL(join(root, "assets/default-model/")))),
    "/exported.json": JSON.stringify(await exported(pathToFileURL(root), join(folder, "exported"))),
  };
  const server = await serve(
    {
      "/page/": join(folder, "page"),
      "/exported/": join(folder, "exported"),
      "/ort/": join(root, "node_modules/onnxruntime-web/dist"),
      "/fixtures/": join(root, "fixtures"),
      "/assets/": join(root, "assets"),
    },
    texts,
  );
  const proxy = await refusingProxy();
  const profile = mkdtempSync(join(tmpdir(), "tunesmith-chromium-"));
  const foreign = [];
  const counts = { passed: 0, failed: 0, skipped: 0 };
  const context = await chromium.launchPersistentContext(profile, {
    executablePath,
    headless: true,
    args: launchArguments(proxy.port),
  });
  try {
    const page = await context.newPage();
    await page.goto(`${server.origin}/`);
    const { suiteNames: all, reloadedSuiteNames: reloaded } = await page.evaluate(async () => {
      const { suiteNames, reloadedSuiteNames } = await import("/page/page.js");
      return { suiteNames, reloadedSuiteNames };
    });
    await page.close();
    for (const suite of wanted.length > 0 ? wanted : [...all, EXAMPLE]) {
      const results =
        suite === EXAMPLE
          ? await testExample(context, folder)
          : await runSuite(context, server.origin, suite, reloaded.includes(suite), foreign);
      print(suite, results);
      for (const { status } of results) counts[status]++;
    }
  } finally {
    await context.close();
    rmSync(profile, { recursive: true, force: true });
    proxy.close();
    server.close();
  }
  const requests = [...foreign, ...proxy.asked.filter((url) => !BROWSER_SERVICES.test(url))];
  const status = requests.length === 0 ? "passed" : "failed";
  const message = requests.slice(0, 5).join(" ");
  print("network", [{ name: "the pages ask this machine only", status, milliseconds: 0, message }]);
  counts[status]++;
  return counts;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const counts = await runBrowserTests(process.argv.slice(2).filter((word) => !word.startsWith("--")));
  console.log(
    `browser: ${counts.passed} passed, ${counts.failed} failed${counts.skipped ? `, ${counts.skipped} skipped` : ""}`,
  );
  process.exit(counts.failed > 0 ? 1 : 0);
}
