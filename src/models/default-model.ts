import { assetFolder } from "#io";

/** Every file of the shipped model that loading needs. */
const FILES = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];

/**
 * The folder of the language model that ships with this package: about 1.6 million parameters that have read
 * TypeScript, made by `npm run pretrain`, so that adaptation can be tried offline. Its README.md says what it knows, its
 * provenance.json what made it. In a browser the files are first copied, once, to the origin private file system.
 *
 * Throws, in a browser, `file-not-found` and `offline` when the files are not served.
 *
 * @param url Where the files are served, when a bundler has moved this module away from them. Default: beside the package.
 * @example
 * ```ts
 * import { defaultModelPath, generate, loadModel } from "tunesmith/models";
 * const model = await loadModel(await defaultModelPath());
 * const { text } = await generate(model, "export interface ", { maxTokens: 40 });
 * ```
 */
export async function defaultModelPath(
  url: URL = new URL("../../assets/default-model/", import.meta.url),
): Promise<string> {
  return assetFolder(url, FILES);
}
