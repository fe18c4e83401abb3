// Everything that decides what the default model becomes, besides the corpus and the engine.
export const seed = 1;
export const vocabSize = 2048;
export const endOfText = "<|endoftext|>";

/** Tokens per row; also the longest position the model knows. */
export const contextLength = 256;

/** 1.6 million parameters. */
export const config = {
  model_type: "llama",
  vocab_size: vocabSize,
  hidden_size: 160,
  intermediate_size: 432,
  num_hidden_layers: 4,
  num_attention_heads: 5,
  num_key_value_heads: 5,
  head_dim: 32,
  hidden_act: "silu",
  max_position_embeddings: contextLength,
  initializer_range: 0.02,
  rms_norm_eps: 1e-5,
  rope_theta: 10000,
  tie_word_embeddings: true,
  attention_bias: false,
  mlp_bias: false,
  bos_token_id: 0,
  eos_token_id: 0,
  torch_dtype: "float16",
};

/**
 * Updates of 1,024 tokens: with so little data, many small ones learn more than few large ones. The learning rate is
 * constant until it falls at the end, so that a run can be made longer while it is under way (`--steps`).
 */
export const training = {
  steps: 3600,
  batchSize: 4,
  learningRate: 2e-3,
  warmupSteps: 100,
  decaySteps: 600,
  weightDecay: 0.1,
  betas: [0.9, 0.95],
  maxGradNorm: 1,
};

/** The committed text whose perplexity the tests check. */
export const heldOutText = "fixtures/default-model/held-out.ts";

/** Prompts of the model card's samples. */
export const samplePrompts = [
  "export interface Options {\n",
  "/**\n * Returns the",
  "export function parse(",
  "import { ",
];
