import type { ArchitectureDefinition, TensorArchitecture } from "./definition.js";
import { gpt2 } from "./gpt2.js";
import { llama } from "./llama.js";

export type AnyDefinition = ArchitectureDefinition<Record<string, unknown>>;
export type AnyTensorArchitecture = TensorArchitecture<Record<string, unknown>>;

/** Every family of causal language models we can build from a config; a new one is one file and one line here. */
export const architectures: readonly AnyDefinition[] = [gpt2, llama] as unknown as readonly AnyDefinition[];

/** Every family of other models. */
export const tensorArchitectures: readonly AnyTensorArchitecture[] =
  [] as unknown as readonly AnyTensorArchitecture[];
