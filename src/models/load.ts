import { basename, fileExists, joinPath, stat } from "#io";
import { loadWeights, readJson } from "./checkpoint.js";
import { causalLm } from "./registry.js";
import { hasTokenizer, loadTokenizer } from "./tokenizer/index.js";
import type { CausalLm } from "./types.js";

/**
 * Loads a causal language model from a Hugging Face style folder (`config.json`, `model.safetensors` or shards,
 * tokenizer files). float32 weights stay in their file; half-precision ones are converted once to a temporary file.
 *
 * Throws `file-not-found`, `file-corrupt`, `config-invalid`, `architecture-unsupported`, `tensor-not-found`.
 */
export async function loadFolder(path: string): Promise<CausalLm> {
  const config = await readJson(joinPath(path, "config.json"));
  const weights = await loadWeights(path);
  const tokenizer = (await hasTokenizer(path)) ? await loadTokenizer(path) : undefined;
  return causalLm(config, weights, { origin: path, tokenizer });
}

/** Whether `path` is a folder with a `config.json`. */
export async function isModelFolder(path: string): Promise<boolean> {
  return (await fileExists(path)) && (await stat(path)).isDirectory && fileExists(joinPath(path, "config.json"));
}

/** Short name of a model for receipts and file names. */
export const modelName = (model: CausalLm): string => (model.origin ? basename(model.origin) : model.architecture);
