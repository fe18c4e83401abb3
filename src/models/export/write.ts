import { joinPath, makeDir } from "#io";
import { TunesmithError } from "../../errors/index.js";
import { type SaveOptions, saveOnnx } from "../../graph/index.js";
import { type Tensor, writeOnnxAdapter } from "../../tensor/index.js";
import { SEGMENT_MASK } from "../onnx/signature.js";
import type { Model } from "../types.js";
import { writeBeside } from "./beside.js";
import { type FileGraph, fileGraph, type GraphOptions } from "./graph.js";
import { seq2seqGraphs } from "./seq2seq.js";
import { type ExportVariant, SUFFIXES, variantFile, variantModel } from "./variants.js";

export interface ExportOptions extends GraphOptions {
  /**
   * `plain`: one `model.onnx` in the folder. `transformers.js`: files below `onnx/` under the names that transformers.js
   * opens, language models with a cache, sequence-to-sequence models as encoder and decoder, and what else it reads.
   * Default `plain`, or `transformers.js` where `cache` is set.
   */
  readonly layout?: "plain" | "transformers.js";
  /** Whether weights go to a file of their own; `auto` (default): above 1 GiB. */
  readonly external?: SaveOptions["external"];
  /** Smaller files beside the first, each with its suffix: `model_fp16.onnx`, `model_quantized.onnx`, .... Default none. */
  readonly variants?: readonly ExportVariant[];
  /** Content of `preprocessor_config.json`. Default: the one the model came with. */
  readonly preprocessor?: Readonly<Record<string, unknown>>;
  /** Text of a model card, `README.md`. Default: none. */
  readonly card?: string;
}

export interface ExportedOnnx {
  /** The model file; the encoder of two. */
  readonly path: string;
  /** Every file written. */
  readonly files: readonly string[];
  /** What programs that open the folder will miss, and where it can come from. */
  readonly notes: readonly string[];
}

/**
 * Writes a model as ONNX: `model.onnx`, or as transformers.js looks for it (see `layout`). Large models get their weights
 * in `model.onnx_data` beside it. `config.json` and the tokenizer's files go into the folder too; for transformers.js also
 * `generation_config.json`, `tokenizer.json` and `preprocessor_config.json`, and `notes` says what could not be had.
 *
 * Throws `config-invalid` for a cache that the model has none of, `file-write-failed`.
 *
 * @example
 * ```ts
 * import { exportOnnx, loadModel } from "tunesmith/models";
 * const model = await loadModel("path/to/model");
 * const { path } = await exportOnnx(model, "exported");
 * console.log(path); // exported/model.onnx
 * const { notes } = await exportOnnx(model, "site/models/mine", { layout: "transformers.js" });
 * console.log(notes);
 * ```
 */
export async function exportOnnx(
  model: Model,
  folder: string,
  options: ExportOptions = {},
): Promise<ExportedOnnx> {
  const layout = options.layout ?? (options.cache ? "transformers.js" : "plain");
  const target = layout === "plain" ? folder : joinPath(folder, "onnx");
  await makeDir(target);
  const written: string[] = [];
  for (const variant of [undefined, ...(options.variants ?? [])]) {
    const graphs = graphsOf(variant ? await variantModel(model, variant) : model, layout, options);
    for (const [name, file] of graphs) {
      const path = joinPath(target, `${name}${variant ? SUFFIXES[variant] : ""}.onnx`);
      written.push(
        ...(await writeGraph(model, path, variant ? await variantFile(file, variant) : file, options)),
      );
    }
  }
  const beside = await writeBeside(model, folder, { ...options, layout, written });
  const files = [...written, ...beside.files];
  return { path: String(written[0]), files, notes: beside.notes };
}

async function writeGraph(
  model: Model,
  path: string,
  { graph, tensors }: FileGraph,
  options: ExportOptions,
): Promise<string[]> {
  const { files } = await saveOnnx(graph, path, {
    external: options.external ?? "auto",
    metadata: metadataOf(model, options),
    ...(options.adapters === "optional" ? { defaults: tensors } : {}),
  });
  if (tensors.size === 0) return [...files];
  const adapter = path.replace(/\.onnx$/, ".onnx_adapter");
  await writeOnnxAdapter(adapter, namedTensors(tensors));
  return [...files, adapter];
}

const namedTensors = (tensors: FileGraph["tensors"]): [string, Tensor][] =>
  [...tensors].map(([value, held]) => [String(value.name), held]);

/**
 * Writes what a model's adapters hold now as an `.onnx_adapter` file for the graphs that `exportOnnx` writes with `adapters`
 * `inputs` or `optional`: one graph serves all adapters of one configuration. Scalars (an adapter's strength) are not in
 * it. Throws `adapter-invalid` for a model without adapters.
 *
 * @example
 * ```ts
 * import { loadAdapter } from "tunesmith/methods";
 * import { exportOnnx, loadModel, saveOnnxAdapter } from "tunesmith/models";
 * const base = await loadModel("path/to/model");
 * await exportOnnx(await loadAdapter(base, "formal"), "out", { adapters: "optional" }); // model.onnx, model.onnx_adapter
 * await saveOnnxAdapter(await loadAdapter(base, "casual"), "out/casual.onnx_adapter");
 * ```
 */
export async function saveOnnxAdapter(model: Model, path: string): Promise<void> {
  const { tensors } = fileGraph(model, { adapters: "inputs" });
  if (tensors.size === 0) {
    throw new TunesmithError("adapter-invalid", "the model has no adapter whose tensors could be written", {
      fix: "give a model with an adapter on it: adapt(...), loadAdapter(...)",
    });
  }
  await writeOnnxAdapter(path, namedTensors(tensors));
}

/** Without a cache the mask of a language model tells segments apart; with one it must be 0 or 1. */
const metadataOf = (model: Model, { cache, layout }: ExportOptions): Record<string, string> =>
  model.task === "causal-lm" && !cache && layout !== "transformers.js" ? { [SEGMENT_MASK]: "segments" } : {};

function graphsOf(
  model: Model,
  layout: "plain" | "transformers.js",
  options: ExportOptions,
): [string, FileGraph][] {
  if (layout === "plain") return [["model", fileGraph(model, options)]];
  if (model.task === "causal-lm") return [["model", fileGraph(model, { ...options, cache: true })]];
  if (model.task !== "seq2seq") return [["model", fileGraph(model, options)]];
  const { encoder, decoder } = seq2seqGraphs(model, options.adapters ?? "merged");
  return [
    ["encoder_model", encoder],
    ["decoder_model_merged", decoder],
  ];
}
