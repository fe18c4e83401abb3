import type { z } from "zod";
import { createGenerator, renderChat } from "../../models/index.js";
import type { Context } from "../command.js";
import type { generateFlagsSchema } from "../config/schema.js";
import { openAdapted, sessionOf, tokenizerOf } from "../work.js";

export async function runGenerate(
  config: z.output<typeof generateFlagsSchema>,
  { ui, signal }: Context,
): Promise<void> {
  const model = await openAdapted(config, ui, signal);
  const { maxTokens, temperature, topK, topP, repetitionPenalty, stop, seed } = config;
  const options = {
    ...{ maxTokens, temperature, repetitionPenalty, stop, seed, signal },
    ...(topK === undefined ? {} : { topK }),
    ...(topP === undefined ? {} : { topP }),
  };
  const generator = await createGenerator(model, sessionOf(config));
  try {
    if (!config.chat) ui.write(config.prompt);
    const stream = generator.stream(promptOf(config, model), options);
    const started = performance.now();
    let next = await stream.next();
    for (; !next.done; next = await stream.next()) ui.write(next.value);
    ui.write("\n");
    const { text, ids, stopReason } = next.value;
    const seconds = (performance.now() - started) / 1000;
    ui.result({
      prompt: config.prompt,
      text,
      tokens: ids.length,
      stopReason,
      tokensPerSecond: ids.length / seconds,
    });
  } finally {
    await generator.close();
  }
}

/** The prompt itself, or as the user's turn of a conversation. */
function promptOf(config: z.output<typeof generateFlagsSchema>, model: Parameters<typeof tokenizerOf>[0]) {
  if (!config.chat) return config.prompt;
  const tokenizer = tokenizerOf(model);
  const messages = [{ role: "user", content: config.prompt }];
  const { text } = renderChat(tokenizer, messages, { addGenerationPrompt: true });
  // The template writes the special tokens itself.
  return tokenizer.encode(text, { addSpecialTokens: false });
}
