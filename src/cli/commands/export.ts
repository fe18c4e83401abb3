import type { z } from "zod";
import { basename, fileExists, joinPath, readText, resolvePath, writeFileAtomic } from "#io";
import { TunesmithError } from "../../errors/index.js";
import { formatReceipt, isAdapted, merge, type Receipted } from "../../methods/index.js";
import { exportOnnx, type Model, saveModel, saveOnnxAdapter } from "../../models/index.js";
import { cardSections, MODEL_CARD_MARK, modelCard } from "../../training/index.js";
import type { Context } from "../command.js";
import type { exportSchema } from "../config/schema.js";
import { checkOnnx } from "../onnx-check.js";
import { version } from "../version.js";
import { openForTask } from "./task-model.js";

type Config = z.output<typeof exportSchema>;

export async function runExport(config: Config, { ui, signal }: Context): Promise<void> {
  const task = config.task === "auto" ? {} : { for: config.task };
  const model: Model = await openForTask({ ...config, ...task }, ui, signal);
  if (config.format === "onnx-adapter") {
    await saveOnnxAdapter(model, config.out);
    ui.say(`wrote ${config.out}`);
    ui.result({ format: config.format, path: config.out, files: [config.out] });
    return;
  }
  const folds = config.adapterWeights === "merged" && isAdapted(model);
  const folded = folds ? await merge(model, { quantized: config.quantized }) : undefined;
  if (config.quantized && !folded?.receipt.quantized)
    ui.note("--quantized does nothing here: no quantised weight was to be changed");
  const receipt = folded && { ...folded.receipt, action: "export" as const };
  const card = await cardFor(config, model, folded);
  if (receipt) ui.say(formatReceipt(receipt));
  if (config.format === "safetensors") return writeFolder(config, folded ?? model, { card, receipt, ui });
  const written = await exportOnnx(folded ?? model, config.out, {
    cache: config.cache,
    external: config.externalData,
    adapters: config.adapterWeights,
    variants: config.variants,
    ...(config.layout ? { layout: config.layout } : {}),
    ...(card ? { card } : {}),
  });
  for (const note of written.notes) ui.note(note);
  const { maxDiff, scale } = await checkOnnx(model, written.path);
  ui.say(`wrote ${written.path}`);
  ui.say(
    `run by ONNX Runtime, its outputs differ by at most ${maxDiff.toExponential(1)} (largest ${scale.toFixed(2)})`,
  );
  const { path, files, notes } = written;
  ui.result({
    format: config.format,
    path,
    files,
    notes,
    maxDiff,
    largestLogit: scale,
    receipt: receipt ?? null,
  });
}

async function writeFolder(
  { out, format }: Config,
  model: Model,
  { card, receipt, ui }: { card: string | undefined; receipt: object | undefined; ui: Context["ui"] },
): Promise<void> {
  if (isAdapted(model)) {
    throw new TunesmithError("config-invalid", "safetensors hold merged weights only", {
      fix: "leave --adapter-weights out; the adapter's own folder is its other form",
    });
  }
  const { files } = await saveModel(model, out);
  const paths = files.map((name) => joinPath(out, name));
  if (card) {
    paths.push(joinPath(out, "README.md"));
    await writeFileAtomic(joinPath(out, "README.md"), card);
  }
  ui.say(`wrote ${out}`);
  ui.result({ format, path: out, files: paths, receipt: receipt ?? null });
}

/** A card from the adapter's own, where it has one, and the receipt of the merge; none over a text that is no card of ours. */
async function cardFor(
  config: Config,
  model: Model,
  folded: Receipted | undefined,
): Promise<string | undefined> {
  const path = joinPath(config.out, "README.md");
  const foreign = (await fileExists(path)) && !(await readText(path)).includes(MODEL_CARD_MARK);
  if (!config.card || foreign) return undefined;
  const own = config.adapter === undefined ? undefined : joinPath(config.adapter, "README.md");
  const before = own && (await fileExists(own)) ? await readText(own) : "";
  const isLocal = await fileExists(config.model);
  const [adapter] = isAdapted(model) ? model.adapters.values() : [];
  return modelCard({
    title: basename(resolvePath(config.out)),
    kind: config.format === "safetensors" ? "model" : "onnx",
    base: isLocal ? basename(resolvePath(config.model)) : config.model,
    ...(isLocal ? {} : { hubBase: config.model }),
    ...(adapter ? { method: adapter.adaptation.method.name } : {}),
    task: model.task,
    forTransformersJs: config.layout === "transformers.js" || config.cache,
    config: {},
    sections: cardSections(before, ["Data", "Results", "Configuration"]),
    ...(folded ? { receipt: formatReceipt({ ...folded.receipt, action: "export" }) } : {}),
    ...(config.license === undefined ? {} : { license: config.license }),
    version: version(),
  });
}
