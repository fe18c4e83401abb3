import { z } from "zod";
import { TunesmithError } from "../../errors/index.js";
import { type Dim, dimMul, ops, scope, type Value } from "../../graph/index.js";
import type { KeyValue, LmInputs, LmOutputs } from "../types.js";
import { tokenAxes } from "../types.js";
import type { WeightReader } from "../weights.js";
import type { ArchitectureDefinition } from "./definition.js";
import { attend, maskBuilder, mergeHeads, splitHeads, withPast } from "./parts/attention.js";
import { activation, linear, linearInOut } from "./parts/layers.js";
import { linearSpecs, type WeightSpec } from "./parts/weight-specs.js";

const schema = z.looseObject({
  vocab_size: z.number().int().positive(),
  n_positions: z.number().int().positive().default(1024),
  n_embd: z.number().int().positive(),
  n_layer: z.number().int().positive(),
  n_head: z.number().int().positive(),
  n_inner: z.number().int().positive().nullish(),
  activation_function: z.string().default("gelu_new"),
  layer_norm_epsilon: z.number().default(1e-5),
  scale_attn_by_inverse_layer_idx: z.boolean().default(false),
});
type Config = z.infer<typeof schema>;

function attention(
  weights: WeightReader,
  config: Config,
  inputs: LmInputs,
  mask: Value,
  x: Value,
  layer: number,
) {
  const path = `transformer.h.${layer}.attn`;
  const dim = config.n_embd / config.n_head;
  const axes = tokenAxes(inputs);
  const projected = linearInOut(weights, "c_attn", `${path}.c_attn`, x);
  const [query, key, value] = ops
    .split(projected, [config.n_embd, config.n_embd, config.n_embd], 1)
    .map((part) => splitHeads(part, config.n_head, dim, axes, inputs.ids)) as [Value, Value, Value];
  const present = withPast(key, value, inputs, layer);
  const scale = 1 / Math.sqrt(dim) / (config.scale_attn_by_inverse_layer_idx ? layer + 1 : 1);
  const mixed = mergeHeads(attend(query, present.key, present.value, { scale, mask }), inputs.ids);
  return { output: linearInOut(weights, "c_proj", `${path}.c_proj`, mixed), present };
}

function mlp(weights: WeightReader, config: Config, x: Value, layer: number): Value {
  const path = `transformer.h.${layer}.mlp`;
  const inner = activation(config.activation_function)(linearInOut(weights, "c_fc", `${path}.c_fc`, x));
  return linearInOut(weights, "c_proj", `${path}.c_proj`, inner);
}

function build(config: Config, weights: WeightReader, inputs: LmInputs): LmOutputs {
  const { batch, length } = tokenAxes(inputs);
  const norm = (name: string, x: Value) =>
    scope(name.slice(name.lastIndexOf(".") + 1), () =>
      ops.layerNorm(x, weights.get(`${name}.weight`), weights.get(`${name}.bias`), config.layer_norm_epsilon),
    );
  const mask = scope("transformer", () => maskBuilder(inputs)());
  const tokens: Dim = dimMul(batch, length);
  let x = scope("transformer", () => {
    const words = scope("wte", () => ops.gather(weights.get("transformer.wte.weight"), inputs.ids));
    const places = scope("wpe", () => ops.gather(weights.get("transformer.wpe.weight"), inputs.positions));
    return ops.reshape(ops.add(words, places), [tokens, config.n_embd], [inputs.ids]);
  });
  const boundaries = [x];
  const present: KeyValue[] = [];
  for (let layer = 0; layer < config.n_layer; layer++) {
    const path = `transformer.h.${layer}`;
    x = scope(path, () => {
      const normed = norm(`${path}.ln_1`, x);
      const attended = scope("attn", () => attention(weights, config, inputs, mask, normed, layer));
      present.push(attended.present);
      const middle = ops.keep(ops.add(x, attended.output));
      const second = norm(`${path}.ln_2`, middle);
      return ops.add(
        middle,
        scope("mlp", () => mlp(weights, config, second, layer)),
      );
    });
    boundaries.push(x);
  }
  const hidden = scope("transformer", () => norm("transformer.ln_f", x));
  const logits = linear(
    weights,
    "lm_head",
    weights.has("lm_head.weight") ? "lm_head" : "transformer.wte",
    hidden,
  );
  return { hidden, logits, boundaries, present };
}

const isTied = (config: Config) => config.tie_word_embeddings !== false;

/** Matrices are stored `[in, out]`. */
function weightSpecs(config: Config): WeightSpec[] {
  const { n_embd: width, vocab_size: vocab, n_positions: positions } = config;
  const inner = config.n_inner ?? 4 * width;
  const norm = (name: string): WeightSpec[] => [
    { name: `${name}.weight`, shape: [width], init: "ones" },
    { name: `${name}.bias`, shape: [width], init: "zeros" },
  ];
  const map = (name: string, rows: number, columns: number, init: "normal" | "residual"): WeightSpec[] => [
    { name: `${name}.weight`, shape: [rows, columns], init },
    { name: `${name}.bias`, shape: [columns], init: "zeros" },
  ];
  const block = (path: string) => [
    ...norm(`${path}.ln_1`),
    ...map(`${path}.attn.c_attn`, width, 3 * width, "normal"),
    ...map(`${path}.attn.c_proj`, width, width, "residual"),
    ...norm(`${path}.ln_2`),
    ...map(`${path}.mlp.c_fc`, width, inner, "normal"),
    ...map(`${path}.mlp.c_proj`, inner, width, "residual"),
  ];
  return [
    { name: "transformer.wte.weight", shape: [vocab, width], init: "normal" },
    { name: "transformer.wpe.weight", shape: [positions, width], init: "normal" },
    ...Array.from({ length: config.n_layer }, (_, layer) => block(`transformer.h.${layer}`)).flat(),
    ...norm("transformer.ln_f"),
    ...(isTied(config) ? [] : linearSpecs("lm_head", [width, vocab])),
  ];
}

/** GPT-2 (`model_type: gpt2`). */
export const gpt2: ArchitectureDefinition<Config> = {
  modelTypes: ["gpt2"],
  schema,
  prefix: "transformer",
  tieable: { output: "lm_head.weight", input: "transformer.wte.weight" },
  defaultTargets: ["c_attn"],
  ignored: /\.attn\.(masked_)?bias$/,
  layerList: "transformer.h",
  withLayers(config, sources) {
    if (!config.scale_attn_by_inverse_layer_idx) return { n_layer: sources.length };
    throw new TunesmithError(
      "architecture-unsupported",
      "attention is scaled by the number of the layer: a copy elsewhere is another layer",
      { fix: "deepen a model without scale_attn_by_inverse_layer_idx" },
    );
  },
  sizes: (config) => ({
    vocabSize: config.vocab_size,
    hiddenSize: config.n_embd,
    layers: config.n_layer,
    heads: config.n_head,
    kvHeads: config.n_head,
    headDim: config.n_embd / config.n_head,
    maxPositions: config.n_positions,
  }),
  tied: isTied,
  weightSpecs,
  build,
};
