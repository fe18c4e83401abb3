import { joinPath, makeDir } from "#io";
import { type SaveOptions, saveOnnx } from "../../graph/index.js";
import { SEGMENT_MASK } from "../onnx/signature.js";
import type { Model } from "../types.js";
import { writeBeside } from "./beside.js";
import { type FileGraph, fileGraph, type GraphOptions } from "./graph.js";
import { seq2seqGraphs } from "./seq2seq.js";

export interface ExportOptions extends GraphOptions {
  /**
   * `plain`: one `model.onnx` in the folder. `transformers.js`: files below `onnx/` under the names that transformers.js
   * opens, language models with a cache, sequence-to-sequence models as encoder and decoder, and what else it reads.
   * Default `plain`, or `transformers.js` where `cache` is set.
   */
  readonly layout?: "plain" | "transformers.js";
  /** Whether weights go to a file of their own; `auto` (default): above 1 GiB. */
  readonly external?: SaveOptions["external"];
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
  const graphs = graphsOf(model, layout, options);
  const written: string[] = [];
  for (const [name, { graph, tensors }] of graphs) {
    const path = joinPath(target, `${name}.onnx`);
    const { files } = await saveOnnx(graph, path, {
      external: options.external ?? "auto",
      metadata: metadataOf(model, options),
      ...(options.adapters === "optional" ? { defaults: tensors } : {}),
    });
    written.push(...files);
  }
  const beside = await writeBeside(model, folder, { ...options, layout, written });
  return {
    path: joinPath(target, `${graphs[0]?.[0]}.onnx`),
    files: [...written, ...beside.files],
    notes: beside.notes,
  };
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
