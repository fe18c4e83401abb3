// Writes the files of assets/default-model.
import { createHash } from "node:crypto";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { saveModel } from "tunesmith/models";
import { config, contextLength, endOfText } from "./settings.mjs";

const json = (value) => `${JSON.stringify(value, null, 2)}\n`;

/** The tokenizer's files, and the model in half precision. */
export async function writeModel(folder, model, tokenizerJson) {
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "tokenizer.json"), `${JSON.stringify(tokenizerJson)}\n`);
  writeFileSync(
    join(folder, "tokenizer_config.json"),
    json({
      tokenizer_class: "PreTrainedTokenizerFast",
      eos_token: endOfText,
      pad_token: endOfText,
      model_max_length: contextLength,
      clean_up_tokenization_spaces: false,
    }),
  );
  await saveModel(model, folder, { dtype: "float16" });
}

const FILES = ["README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];

/** provenance.json: what made the model, and the hash of every other file. */
export async function writeProvenance(folder, record) {
  const files = Object.fromEntries(
    FILES.map((name) => {
      const content = readFileSync(join(folder, name));
      return [name, { bytes: content.length, sha256: createHash("sha256").update(content).digest("hex") }];
    }),
  );
  const { samples, ...evaluation } = record.evaluation;
  writeFileSync(
    join(folder, "provenance.json"),
    json({ script: "npm run pretrain", ...record, evaluation, files }),
  );
}

export async function writeCard(folder, record) {
  const { evaluation, corpus, training, parameters, wallSeconds, versions, machine, seed } = record;
  const { heldOutPackages: packages, heldOutText: text } = evaluation;
  const names = corpus.packages.filter(({ heldOut }) => heldOut).map((entry) => entry.package);
  const row = (what, { perplexity, bitsPerByte, tokens }) =>
    `| ${what} | ${perplexity.toFixed(2)} | ${bitsPerByte.toFixed(3)} | ${tokens} |`;
  const samples = evaluation.samples.map(
    ({ prompt, text: continuation }) => `\`\`\`ts\n${prompt}⟨…⟩${continuation.trimEnd()}\n\`\`\``,
  );
  const card = `# Tunesmith default model

A language model of ${(parameters / 1e6).toFixed(2)} million parameters that has read TypeScript. It ships with Tunesmith so that adaptation can be
tried at once and offline; it knows the look of the language, and little else. Adapting it to a folder of code or prose
shows quickly. It is no assistant, and its text means nothing.

- Architecture: Llama (${config.num_hidden_layers} layers, width ${config.hidden_size}, ${config.num_attention_heads} heads, feed-forward ${config.intermediate_size}, tied embeddings), context ${contextLength} tokens.
- Tokenizer: byte-level BPE, ${config.vocab_size} tokens, trained on the same text.
- Files: half precision weights; loading widens them to float32.
- Licence: MIT, as Tunesmith.

## Data

${(corpus.bytes.train / 1e6).toFixed(1)} MB of TypeScript declarations and sources from ${corpus.packages.length - names.length} packages in node_modules, all under MIT, Apache-2.0, ISC or
BSD licences; [provenance.json](provenance.json) lists each with version, licence and size, and the hash of the whole.
Tunesmith's own sources are not among them. Held out: ${names.join(", ")}.

## Training

\`npm run pretrain\` (scripts/pretrain) does everything with Tunesmith's own engine: corpus, tokenizer, training
(all weights, AdamW, constant learning rate with a fall at the end, packed rows, float32), evaluation, this file. ${training.steps} steps of ${training.batchSize} x ${contextLength} tokens
(${(training.tokens / 1e6).toFixed(1)} million, of ${(corpus.tokens / 1e6).toFixed(1)} million in the corpus), peak learning rate ${training.learningRate}, seed ${seed}; ${Math.round(wallSeconds / 60)} minutes on ${machine.threads} threads
(${machine.cpu}, Node ${versions.node}, ONNX Runtime ${versions["onnxruntime-node"]}). The same package-lock.json gives the same corpus and tokenizer;
the same weights, bit for bit, also take the same versions of Tunesmith and ONNX Runtime, processor and thread count.

## Measured

By the script, on the shipped files. A model that knows nothing has perplexity ${evaluation.uniformPerplexity}.

| text | perplexity per token | bits per byte | tokens |
|---|---|---|---|
${row("held-out packages", packages)}
${row(text.file, text)}

## Samples

Temperature 0.7, top-p 0.95; the prompt ends at ⟨…⟩.

${samples.join("\n\n")}
`;
  writeFileSync(join(folder, "README.md"), card);
}
