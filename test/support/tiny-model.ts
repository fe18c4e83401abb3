import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { trainBpe } from "../../src/data/index.js";
import { initModel, saveModel } from "../../src/models/index.js";

/** Text of a few recurring sentences: learnable in some dozen steps. */
export function tinyText(lines: number): string {
  const subjects = ["the cat", "a dog", "the old man", "my sister"];
  const verbs = ["sees", "likes", "follows", "paints"];
  const objects = ["the red house", "a small boat", "the moon", "green apples"];
  return Array.from({ length: lines }, (_, at) => {
    const pick = (words: readonly string[], step: number) => words[Math.floor(at / step) % words.length];
    return `${pick(subjects, 1)} ${pick(verbs, 4)} ${pick(objects, 16)}.\n`;
  }).join("");
}

/** A folder with a fresh Llama of two small layers and a tokenizer trained on `tinyText`. */
export async function writeTinyModel(folder: string): Promise<void> {
  mkdirSync(folder, { recursive: true });
  const tokenizer = trainBpe([tinyText(64)], { vocabSize: 300 });
  writeFileSync(join(folder, "tokenizer.json"), JSON.stringify(tokenizer));
  writeFileSync(join(folder, "tokenizer_config.json"), JSON.stringify({ eos_token: "<|endoftext|>" }));
  const vocabSize = 257 + tokenizer.model.merges.length;
  const model = initModel(
    {
      model_type: "llama",
      vocab_size: vocabSize,
      hidden_size: 32,
      intermediate_size: 64,
      num_hidden_layers: 2,
      num_attention_heads: 4,
      num_key_value_heads: 2,
      max_position_embeddings: 64,
      eos_token_id: 0,
      initializer_range: 0.1,
    },
    { seed: 1 },
  );
  await saveModel(model, folder);
}
