import { lowerMarkers } from "../src/graph/index.js";
import {
  adapt,
  lora,
  type Method,
  type SiteConfig,
  type VeloraConfig,
  velora,
} from "../src/methods/index.js";
import { initModel } from "../src/models/index.js";
import { nextToken, stepGraph } from "../src/training/index.js";
import { runBytes } from "../src/training/memory-arena.js";
import { between, type Check } from "./proof.js";

/** What a step saves in memory, over what the inputs of A take less their codes. */
export async function memoryCheck(method: Method<VeloraConfig>): Promise<Check> {
  const sizes = { hidden_size: 64, intermediate_size: 512, num_hidden_layers: 6, num_attention_heads: 2 };
  const base = initModel({ model_type: "llama", vocab_size: 64, ...sizes }, { seed: 1 });
  const [batch, length, groups] = [4, 64, 16];
  const settings = { rank: 4, targets: ["down_proj"] };
  const bytes = async (adaptation: Parameters<typeof adapt>[1]) => {
    const model = await adapt(base, adaptation);
    const { graph } = stepGraph(nextToken(model, { batchSize: batch, lengths: [length], padId: 0 }), {
      batch,
      length,
    });
    return runBytes(lowerMarkers(graph));
  };
  const { config } = velora({ ...settings, groups });
  const compressed = { method: method as unknown as Method<SiteConfig>, config };
  const inputs = sizes.num_hidden_layers * batch * length * (sizes.intermediate_size - groups) * 4;
  const saved = (await bytes(lora(settings) as unknown as typeof compressed)) - (await bytes(compressed));
  // The range was written after a first look at another model, which gave about 0.8.
  return between("memory of a training step saved, over what A's inputs take", saved / inputs, 0.6, 1);
}
