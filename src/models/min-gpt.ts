import { TunesmithError } from "../errors/index.js";
import { constant, type Value } from "../graph/index.js";
import { readTensor, tensor, toFloat32 } from "../tensor/index.js";
import { type BuildOptions, causalLm } from "./causal-lm.js";
import type { CausalLm, Weights } from "./types.js";

/** Whether a state dict is one of minGPT's kind: GPT-2's names, but linear maps stored `[out, in]`. */
export function isMinGpt(weights: Weights): boolean {
  const [rows, columns] = (weights.get("transformer.h.0.attn.c_attn.weight")?.shape ?? []) as number[];
  return rows !== undefined && columns !== undefined && rows === 3 * columns;
}

/**
 * A GPT of minGPT, whose linear maps are turned to GPT-2's layout, so that adapters and saved folders are ordinary
 * ones. All of `config` but `n_head` is seen from the tensors; `activation_function` is minGPT's (`gelu_new`) unless it
 * says otherwise (nanoGPT: `gelu`).
 *
 * Throws `config-invalid` when that number is missing, and what `causalLm` throws.
 */
export async function minGpt(
  weights: Weights,
  config: Readonly<Record<string, unknown>>,
  options: BuildOptions = {},
): Promise<CausalLm> {
  const origin = options.origin ?? "model";
  if (typeof config.n_head !== "number") {
    throw new TunesmithError(
      "config-invalid",
      `${origin}: the number of attention heads is not in the file`,
      {
        fix: "give { config: { n_head: 12 } } with the number the model was made with",
      },
    );
  }
  const [vocabulary, width] = (weights.get("transformer.wte.weight")?.shape ?? []) as number[];
  const [positions] = (weights.get("transformer.wpe.weight")?.shape ?? []) as number[];
  const layers = new Set([...weights.keys()].map((name) => /^transformer\.h\.(\d+)\./.exec(name)?.[1]));
  layers.delete(undefined);
  const turned = new Map<string, Value>();
  for (const [name, value] of weights) turned.set(name, TURNED.test(name) ? await transposed(value) : value);
  const gpt2 = {
    activation_function: config.activation_function ?? "gelu_new",
    model_type: "gpt2",
    n_embd: width,
    n_head: config.n_head,
    n_layer: layers.size,
    n_positions: positions,
    tie_word_embeddings: false,
    vocab_size: vocabulary,
  };
  return causalLm(gpt2, turned, options);
}

const TURNED = /\.(attn\.c_attn|attn\.c_proj|mlp\.c_fc|mlp\.c_proj)\.weight$/;

async function transposed(value: Value): Promise<Value> {
  if (value.source.kind !== "constant") return value;
  const [rows, columns] = value.shape as [number, number];
  const data = toFloat32(await readTensor(value.source.data));
  const out = new Float32Array(data.length);
  for (let row = 0; row < rows; row++)
    for (let column = 0; column < columns; column++)
      out[column * rows + row] = data[row * columns + column] as number;
  return constant(tensor("float32", [columns, rows], out), value.name);
}
