// The example page of examples/browser as a user sees it: built by Vite, served by its preview server with the headers of its
// configuration, its file fields filled through the browser.
import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { unzipSync } from "fflate";
import { build, preview } from "vite";

const WAIT = { timeout: 120_000 };
const STEPS = 10;

/** Builds the page over the sources of the library, and serves it; `asked` fills with every request that arrives. */
async function openServer(root, outDir) {
  const shared = {
    root: join(root, "examples/browser"),
    logLevel: "error",
    build: { outDir, emptyOutDir: true },
  };
  await build({
    ...shared,
    resolve: { conditions: ["source", "browser", "module", "import", "default"] },
  });
  const server = await preview({ ...shared, preview: { port: 0, host: "127.0.0.1" } });
  const asked = [];
  server.httpServer.on("request", ({ method, url, headers }) =>
    asked.push({ method, path: url, body: headers["content-length"] ?? "0" }),
  );
  const { port } = server.httpServer.address();
  const built = new Set(["/", ...builtFiles(outDir)]);
  return { origin: `http://127.0.0.1:${port}`, asked, built, close: () => server.close() };
}

/** Paths of the built files as the page asks for them. */
const builtFiles = (outDir) =>
  readdirSync(outDir, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(outDir.length));

function equal(actual, expected, what) {
  const [left, right] = [JSON.stringify(actual), JSON.stringify(expected)];
  if (left !== right) throw new Error(`${what}: ${left} instead of ${right}`);
}

function assert(condition, message) {
  if (!condition) throw new Error(message);
}

/** A page of the example whose requests are recorded through the DevTools protocol, and what its status line said. */
async function openPage(context, origin, requests) {
  const page = await context.newPage();
  page.setDefaultTimeout(WAIT.timeout);
  const protocol = await context.newCDPSession(page);
  protocol.on("Network.requestWillBeSent", ({ request }) => requests.push(request));
  await protocol.send("Network.enable");
  await page.goto(origin);
  await page.waitForSelector("body[data-ready]", { state: "attached" });
  await page.evaluate(() => {
    const status = document.querySelector("#status");
    globalThis.said = [];
    const note = () => globalThis.said.push(status.textContent);
    new MutationObserver(note).observe(status, { childList: true });
  });
  return { page, protocol };
}

const said = (page) => page.evaluate(() => globalThis.said);

async function choose(page, model, data) {
  await page.setInputFiles("#model-files", model);
  await page.waitForFunction(() => document.querySelector("#model-info").textContent !== "", null, WAIT);
  await waitForStatus(page, /^stored$/);
  await page.evaluate(() => document.querySelector("#status").replaceChildren());
  await page.setInputFiles("#data-files", data);
  await waitForStatus(page, /^stored$/);
}

async function settings(page, values) {
  for (const [name, value] of Object.entries(values))
    await page.fill(`#settings [name=${name}]`, String(value));
}

/** Waits for the status line to say something; an error that it shows instead ends the wait. */
async function waitForStatus(page, pattern) {
  const found = await page.waitForFunction(
    (source) => {
      const { textContent, dataset } = document.querySelector("#status");
      return dataset.code || new RegExp(source).test(textContent)
        ? { textContent, code: dataset.code }
        : false;
    },
    pattern.source,
    { ...WAIT, polling: 50 },
  );
  const { textContent, code } = await found.jsonValue();
  if (code) throw new Error(`the page says: ${textContent}`);
  return textContent;
}

function inTime(promise, what) {
  let timer;
  const limit = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} did not come in time`)), WAIT.timeout);
  });
  return Promise.race([promise, limit]).finally(() => clearTimeout(timer));
}

/** Trains to the end; the hash of the adapter. */
async function trained(page) {
  await page.click("#train");
  await waitForStatus(page, /^trained/);
  return page.textContent("#hash");
}

const losses = (texts) => texts.flatMap((text) => /loss ([\d.]+)/.exec(text)?.[1] ?? []).map(Number);

async function save(page, button, path) {
  const [download] = await Promise.all([page.waitForEvent("download", WAIT), page.click(button)]);
  await download.saveAs(path);
}

/** What is tested, in order; later tests use what earlier ones have left in the browser's storage. */
function tests({ context, server, files, folder, checkResult, outDir }) {
  const requests = [];
  const open = () => openPage(context, server.origin, requests);
  const run = (name) => ({ run: name, steps: STEPS, length: 64, batchSize: 2, targets: "all-linear" });
  let whole = "";

  const picked = async () => {
    const { page } = await open();
    await choose(page, files.languageModel, files.text);
    equal(await page.evaluate(() => globalThis.crossOriginIsolated), true, "isolated, for threads");
    await settings(page, run("whole"));
    whole = await trained(page);
    const [first, last] = [losses(await said(page))[0], losses(await said(page)).at(-1)];
    assert(last < first, `the loss went from ${first} to ${last}`);
    await page.fill("#sample [name=tokens]", "8");
    await page.click("#sample button");
    await page.waitForFunction(
      () => document.querySelector("#after").textContent.length > "after: The ".length,
      null,
      WAIT,
    );
    await save(page, "#adapter", join(folder, "adapter.zip"));
    await save(page, "#merged", join(folder, "merged.onnx"));
    await page.close();
    const archive = unzipSync(readFileSync(join(folder, "adapter.zip")));
    mkdirSync(join(folder, "adapter"));
    for (const [name, bytes] of Object.entries(archive)) writeFileSync(join(folder, "adapter", name), bytes);
    const sha256 = createHash("sha256").update(archive["adapter_model.safetensors"]).digest("hex");
    equal(sha256, whole, "the hash of the weights that were downloaded");
    const { difference, change } = await checkResult(
      files.languageModel[0],
      join(folder, "adapter"),
      join(folder, "merged.onnx"),
    );
    assert(
      difference < 1e-3 && change > 100 * difference,
      `merged differs by ${difference}, adapted by ${change}`,
    );
    return `loss ${first} -> ${last}; in Node merged and adapted differ by ${difference.toExponential(1)}`;
  };

  const cutOff = async () => {
    const { page, protocol } = await open();
    await settings(page, run("cut"));
    await protocol.send("Debugger.enable");
    const paused = new Promise((resolve) => protocol.once("Debugger.paused", resolve));
    // The page stands still after its seventh step, and holds its lock, until the tab is closed.
    await page.evaluate(() => {
      const status = document.querySelector("#status");
      new MutationObserver(() => {
        // biome-ignore lint/suspicious/noDebugger: it is what stops the page
        if (status.textContent.startsWith("step 7 ")) debugger;
      }).observe(status, { childList: true });
    });
    await page.click("#train");
    await inTime(paused, "the seventh step");
    const { page: second } = await open();
    await second.click("#train");
    await second.waitForSelector("#status[data-code=in-use]", WAIT);
    const message = await second.textContent("#status");
    await page.close();
    await second.close();
    return message;
  };

  const resumed = async () => {
    const { page } = await open();
    equal(await page.inputValue("#settings [name=run]"), "cut", "the run that the page remembers");
    const hash = await trained(page);
    const from = (await said(page)).find((text) => text.startsWith("resumed"));
    equal(from, "resumed after step 5", "the checkpoint it continued from");
    equal(hash, whole, "the hash of the adapter of the uninterrupted run");
    await page.close();
    return `${from}; ${hash.slice(0, 12)}`;
  };

  const classifier = async () => {
    const { page } = await open();
    await choose(page, files.classifier, files.pictures);
    await settings(page, { ...run("pictures"), batchSize: 8, targets: "", learningRate: 0.02 });
    await trained(page);
    const found = losses(await said(page));
    assert(found.at(-1) < found[0], `the loss went from ${found[0]} to ${found.at(-1)}`);
    await page.close();
    return `loss ${found[0]} -> ${found.at(-1)}`;
  };

  const storage = async () => {
    const { page, protocol } = await open();
    const count = (id) =>
      page.evaluate((list) => document.querySelector(list).options.length, `#${id}-stored`);
    equal([await count("model"), await count("data")], [2, 2], "stored models and data");
    await protocol.send("Storage.overrideQuotaForOrigin", { origin: server.origin, quotaSize: 1_000_000 });
    writeFileSync(join(folder, "other.onnx"), new Uint8Array(500_000));
    await page.setInputFiles("#model-files", join(folder, "other.onnx"));
    await page.waitForSelector("#status[data-code=storage-full]", WAIT);
    await protocol.send("Storage.overrideQuotaForOrigin", { origin: server.origin });
    await page.click("#model-remove");
    await page.waitForFunction(
      () => document.querySelector("#model-stored").options.length === 1,
      null,
      WAIT,
    );
    await page.close();
  };

  const network = async () => {
    const foreign = requests.filter(
      ({ url }) => !url.startsWith(`${server.origin}/`) && !/^(blob|data):/.test(url),
    );
    equal(
      foreign.map(({ url }) => url),
      [],
      "requests to others",
    );
    assert(requests.length > 10, `${requests.length} requests were recorded`);
    const others = server.asked.filter(
      ({ method, path, body }) => method !== "GET" || body !== "0" || !server.built.has(path),
    );
    equal(others, [], `requests for something else than the files of ${outDir}`);
    const { page } = await open();
    const refused = await page.evaluate(async () => {
      const violated = new Promise((resolve) => {
        document.addEventListener("securitypolicyviolation", (event) => resolve(event.effectiveDirective));
      });
      await fetch("http://127.0.0.1:9/").catch(() => undefined);
      return violated;
    });
    equal(refused, "connect-src", "the policy that refuses a request to another host");
    await page.close();
    return `${server.asked.length} requests, all for files of the page`;
  };

  return [
    ["a picked ONNX model is stored, learns, and leaves as adapter and merged file that Node reads", picked],
    ["a tab is closed in the middle of its run; meanwhile a second tab on the same run is refused", cutOff],
    ["opened again, the run continues to the adapter of an uninterrupted one, bit for bit", resumed],
    ["a convolutional classifier learns from a zip of pictures", classifier],
    ["stored files are listed and removed; one beyond the quota is refused", storage],
    ["no request leaves but for the page's own files, and its policy lets none out", network],
  ];
}

/** Runs the tests in `context`; gives their results as a suite does. */
export async function runExample({ context, root, folder, exampleFiles, checkResult }) {
  mkdirSync(folder, { recursive: true });
  const outDir = join(folder, "page");
  const [server, files] = [await openServer(root, outDir), await exampleFiles(root, folder)];
  const results = [];
  try {
    for (const [name, work] of tests({ context, server, files, folder, checkResult, outDir })) {
      const start = performance.now();
      const done = (status, message = "") =>
        results.push({ name, status, message, milliseconds: Math.round(performance.now() - start) });
      await work().then(
        (note) => done("passed", note),
        (error) => done("failed", error.stack),
      );
    }
  } finally {
    for (const page of context.pages()) if (page.url().startsWith(server.origin)) await page.close();
    await server.close();
  }
  return results;
}
