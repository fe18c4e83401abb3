// What the shipped files are worth: loaded as a user would load them, half precision and all.
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { packExamples, tokenizeExamples } from "tunesmith/data";
import { createGenerator, loadModel } from "tunesmith/models";
import { evaluateOnce } from "tunesmith/training";
import { contextLength, heldOutText, samplePrompts, seed } from "./settings.mjs";

export async function evaluateShipped(folder, corpus, root) {
  const model = await loadModel(folder);
  const measure = async (texts) => {
    const rows = texts.map((text) => ({ kind: "text", text }));
    const { examples } = tokenizeExamples(rows, model.tokenizer, { maxLength: contextLength });
    const packs = packExamples(examples, { length: contextLength });
    const plan = { batchSize: 8, lengths: [contextLength], padId: 0 };
    const { loss, perplexity, count: tokens } = await evaluateOnce(model, packs, plan);
    const bytes = texts.reduce((sum, text) => sum + Buffer.byteLength(text), 0);
    return { perplexity, tokens, bytes, bitsPerByte: (loss * tokens) / Math.LN2 / bytes };
  };
  const text = readFileSync(join(root, heldOutText), "utf8");
  return {
    uniformPerplexity: model.sizes.vocabSize,
    heldOutPackages: await measure(corpus.heldOut),
    heldOutText: {
      file: heldOutText,
      sha256: createHash("sha256").update(text).digest("hex"),
      ...(await measure([text])),
    },
    samples: await samples(model),
  };
}

async function samples(model) {
  const generator = await createGenerator(model);
  const texts = [];
  for (const prompt of samplePrompts) {
    const { text } = await generator.generate(prompt, { maxTokens: 90, temperature: 0.7, topP: 0.95, seed });
    texts.push({ prompt, text });
  }
  await generator.close();
  return texts;
}
