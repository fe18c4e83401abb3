import { listDir } from "#io";
import { loadTokenizer, type Tokenizer } from "./tokenizer/index.js";

const TOKENIZER_FILE =
  /^(tokenizer\.(json|model)|spiece\.model|sentencepiece\.bpe\.model|vocab\.(json|txt)|tok(enizer)?\d*\.bin)$/;
/** What belongs to a tokenizer without being one. */
const BESIDE =
  /^(tokenizer_config\.json|special_tokens_map\.json|added_tokens\.json|merges\.txt|chat_template\.(jinja|json)|generation_config\.json)$/;

/** The tokenizer of a folder, or undefined when no file of one is there. */
export async function tokenizerIn(folder: string): Promise<Tokenizer | undefined> {
  const names = await listDir(folder);
  return names.some((name) => TOKENIZER_FILE.test(name)) ? loadTokenizer(folder) : undefined;
}

/** Whether a file travels with the tokenizer: vocabulary, special tokens, chat template, generation defaults. */
export const isTokenizerFile = (name: string): boolean => TOKENIZER_FILE.test(name) || BESIDE.test(name);
