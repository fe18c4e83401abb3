import { type Dim, dimMul, ops, type Value, withScope } from "../../../graph/index.js";
import { activation } from "../parts/layers.js";
import {
  convLayer,
  flatTokens,
  groupNormLayer,
  layerNormLayer,
  linearLayer,
  spaceToTokens,
} from "../parts/modules.js";
import { multiHead, type Tokens } from "../parts/multi-head.js";
import type { Params } from "../parts/params.js";
import type { UnetConfig } from "./config.js";

/** What every block reads besides the feature map. */
export interface Conditions {
  readonly config: UnetConfig;
  /** Embedding of the time step, `[batch, width]`. */
  readonly time: Value;
  /** What cross-attention attends to. */
  readonly context?: Tokens | undefined;
}

/** Two convolutions around the time step's embedding, added to the map. */
export function resnetBlock(
  params: Params,
  path: string,
  x: Value,
  out: number,
  { config, time }: Conditions,
  outputScale = 1,
): Value {
  const act = activation(config.act_fn);
  const options = { groups: config.norm_num_groups, epsilon: config.norm_eps };
  const conv = (name: string, value: Value) =>
    convLayer(params, `${path}.${name}`, value, { out, kernel: 3, padding: 1 });
  return withScope(path, () => {
    const first = conv("conv1", act(groupNormLayer(params, `${path}.norm1`, x, options)));
    const shifts = config.resnet_time_scale_shift === "scale_shift" ? 2 : 1;
    const projected = linearLayer(params, `${path}.time_emb_proj`, act(time), out * shifts);
    const embedded = ops.unsqueeze(projected, 2, 3);
    const norm = (value: Value) => groupNormLayer(params, `${path}.norm2`, value, options);
    const middle = shifts === 1 ? norm(ops.add(first, embedded)) : shifted(norm(first), embedded, out);
    const second = conv("conv2", act(middle));
    const plain = x.shape[1] === out;
    const rest = plain ? x : convLayer(params, `${path}.conv_shortcut`, x, { out, kernel: 1 });
    const sum = ops.add(rest, second);
    return outputScale === 1 ? sum : ops.div(sum, outputScale);
  });
}

function shifted(x: Value, embedded: Value, width: number): Value {
  const [scale, shift] = ops.split(embedded, [width, width], 1) as [Value, Value];
  return ops.add(ops.mul(x, ops.add(scale, 1)), shift);
}

const tokensOf = (x: Value): Tokens => {
  const [batch, , height, width] = x.shape as [Dim, number, Dim, Dim];
  return { rows: flatTokens(spaceToTokens(x)), batch, length: dimMul(height, width), like: x };
};

/** `[batch*height*width, channels]` as a map of the height and width of `like`. */
const asMap = (rows: Value, like: Value): Value => {
  const [batch, , height, width] = like.shape as [Dim, number, Dim, Dim];
  const shaped = ops.reshape(rows, [batch, height, width, rows.shape[1] as number], [like]);
  return ops.transpose(shaped, [0, 3, 1, 2]);
};

const attentionNames = (path: string) => ({
  query: `${path}.to_q`,
  key: `${path}.to_k`,
  value: `${path}.to_v`,
  output: `${path}.to_out.0`,
});

export interface SelfAttentionOptions {
  /** Size of a head. */
  readonly dim: number;
  /** Of the norm before it; null without one. */
  readonly groups: number | null;
  readonly outputScale: number;
}

/** Attention of every place to every other (`Attention` of the unconditional networks). */
export function selfAttention(
  params: Params,
  path: string,
  x: Value,
  config: UnetConfig,
  { dim, groups, outputScale }: SelfAttentionOptions,
): Value {
  return withScope(path, () => {
    const normed =
      groups === null
        ? x
        : groupNormLayer(params, `${path}.group_norm`, x, { groups, epsilon: config.norm_eps });
    const tokens = tokensOf(normed);
    const heads = Math.floor((x.shape[1] as number) / dim);
    const mixed = multiHead(params, attentionNames(path), tokens, tokens, { heads, dim });
    const sum = ops.add(asMap(mixed.rows, x), x);
    return outputScale === 1 ? sum : ops.div(sum, outputScale);
  });
}

/** Self-attention, cross-attention and a gated map over tokens. */
function transformerBlock(
  params: Params,
  path: string,
  tokens: Tokens,
  heads: number,
  context: Tokens | undefined,
): Value {
  let x = tokens.rows;
  const width = x.shape[1] as number;
  const norm = (at: number): Tokens => ({
    ...tokens,
    rows: layerNormLayer(params, `${path}.norm${at}`, x, 1e-5),
  });
  const options = { heads, dim: Math.floor(width / heads), bias: false, outputBias: true };
  const attend = (at: number, source?: Tokens) => {
    const query = norm(at);
    const names = attentionNames(`${path}.attn${at}`);
    x = ops.add(x, multiHead(params, names, query, source ?? query, options).rows);
  };
  return withScope(path, () => {
    attend(1);
    attend(2, context);
    const inner = linearLayer(params, `${path}.ff.net.0.proj`, norm(3).rows, width * 8);
    const [value, gate] = ops.split(inner, [width * 4, width * 4], 1) as [Value, Value];
    const gated = ops.mul(value, ops.gelu(gate));
    return ops.add(x, linearLayer(params, `${path}.ff.net.2`, gated, width));
  });
}

/** Transformer blocks over the places of a map (`Transformer2DModel`). */
export function transformer2d(
  params: Params,
  path: string,
  x: Value,
  heads: number,
  { config, context }: Conditions,
): Value {
  const channels = x.shape[1] as number;
  const linear = config.use_linear_projection;
  return withScope(path, () => {
    const normed = groupNormLayer(params, `${path}.norm`, x, {
      groups: config.norm_num_groups,
      epsilon: 1e-6,
    });
    const into = `${path}.proj_in`;
    let tokens = linear
      ? { ...tokensOf(normed), rows: linearLayer(params, into, tokensOf(normed).rows, channels) }
      : tokensOf(convLayer(params, into, normed, { out: channels, kernel: 1 }));
    for (let at = 0; at < config.transformer_layers_per_block; at++) {
      const rows = transformerBlock(params, `${path}.transformer_blocks.${at}`, tokens, heads, context);
      tokens = { ...tokens, rows };
    }
    const out = `${path}.proj_out`;
    const map = linear
      ? asMap(linearLayer(params, out, tokens.rows, channels), x)
      : convLayer(params, out, asMap(tokens.rows, x), { out: channels, kernel: 1 });
    return ops.add(map, x);
  });
}
