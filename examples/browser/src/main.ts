/** The page: what its buttons and fields do. */
import { type Adapted, type Model, methodNamed, methodNames, type StoredFiles } from "tunesmith";
import { remove } from "tunesmith/io";
import { drawLoss } from "./chart.js";
import { download, element, reported } from "./page.js";
import { fileSection } from "./stored-files.js";
import {
  adapterZip,
  adaptModel,
  beforeAndAfter,
  mergedOnnx,
  openModel,
  runFolder,
  type Settings,
  tune,
} from "./tune.js";

const form = element("form", "settings");
const [train, stop, progress] = [
  element("button", "train"),
  element("button", "stop"),
  element("progress", "progress"),
];
let base: Model | undefined;
let adapted: Adapted | undefined;

const methods = methodNames.filter((name) => methodNamed(name).result === "adapter");
const method = form.elements.namedItem("method") as HTMLSelectElement;
method.replaceChildren(...methods.map((name) => new Option(name, name, name === "lora", name === "lora")));

// Settings are remembered, so that a page that is opened again resumes with one click.
const remembered = JSON.parse(localStorage.getItem("settings") ?? "{}") as Record<string, string>;
for (const [name, value] of Object.entries(remembered)) {
  const field = form.elements.namedItem(name);
  if (field instanceof HTMLInputElement || field instanceof HTMLSelectElement) field.value = value;
}

function settings(): Settings {
  const text = Object.fromEntries(new FormData(form)) as Record<string, string>;
  localStorage.setItem("settings", JSON.stringify(text));
  const { run = "", method = "", targets = "" } = text;
  const number = (name: string) => Number(text[name]);
  return {
    ...{ run, method, targets, rank: number("rank"), steps: number("steps") },
    ...{ batchSize: number("batchSize"), length: number("length"), learningRate: number("learningRate") },
  };
}

async function openChosen(chosen: StoredFiles | undefined): Promise<void> {
  base = chosen && (await openModel(chosen));
  const info = base
    ? `${base.task}; usual targets: ${base.defaultTargets.join(", ")}; tokenizer: ${base.tokenizer ? "yes" : "none"}`
    : "";
  element("output", "model-info").textContent = info;
}

const chosenModel = await fileSection("model", openChosen).catch(unopened);
const chosenData = await fileSection("data", async () => {}).catch(unopened);

/** A stored model that does not open must not keep the page from working. */
async function unopened(error: unknown): Promise<() => undefined> {
  await reported(() => Promise.reject(error));
  return () => undefined;
}

async function run(status: (text: string) => void): Promise<void> {
  const [model, data, chosen] = [chosenModel(), chosenData(), settings()];
  if (!base || !model || !data) throw new Error("pick a model and data first");
  const cancel = new AbortController();
  const losses: { step: number; loss: number }[] = [];
  stop.onclick = () => cancel.abort();
  status("preparing");
  adapted = await adaptModel(base, chosen);
  const result = await tune(adapted, {
    stored: { model, data },
    settings: chosen,
    signal: cancel.signal,
    onEvent(event) {
      if (event.type === "resumed") status(`resumed after step ${event.step}`);
      if (event.type !== "step") return;
      losses.push({ step: event.step, loss: event.loss });
      progress.value = event.step / event.steps;
      drawLoss(element("div", "chart"), losses);
      const left =
        event.remainingSeconds === undefined ? "" : `, ${Math.round(event.remainingSeconds)} s left`;
      status(`step ${event.step} of ${event.steps}: loss ${event.loss.toFixed(4)}${left}`);
    },
  });
  const { hash } = await adapterZip(adapted, chosen.run);
  element("output", "hash").textContent = hash;
  element("section", "results").hidden = false;
  status(`trained: ${result.steps} steps`);
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  [train.disabled, stop.disabled] = [true, false];
  await reported(run);
  [train.disabled, stop.disabled] = [false, true];
});

element("button", "discard").addEventListener("click", () =>
  reported(async (status) => {
    await remove(runFolder(settings().run));
    status("discarded");
  }),
);

/** The trained model; the section with these buttons appears when there is one. */
function trained(): Adapted {
  if (!adapted) throw new Error("train first");
  return adapted;
}

element("button", "adapter").addEventListener("click", () =>
  reported(async () => download((await adapterZip(trained(), settings().run)).zip, "adapter.zip")),
);
element("button", "merged").addEventListener("click", () =>
  reported(async () => download(await mergedOnnx(trained()), "model.onnx")),
);
element("form", "sample").addEventListener("submit", (event) => {
  event.preventDefault();
  const fields = new FormData(event.target as HTMLFormElement);
  const [prompt, tokens] = [String(fields.get("prompt")), Number(fields.get("tokens"))];
  return reported(async () => {
    const [before, after] = await beforeAndAfter(trained(), prompt, tokens);
    element("pre", "before").textContent = `before: ${prompt}${before}`;
    element("pre", "after").textContent = `after: ${prompt}${after}`;
  });
});
// For tests and the impatient: everything is wired.
document.body.dataset.ready = "true";
