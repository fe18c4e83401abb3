import { z } from "zod";

const size = z.number().int().positive().max(1_000_000);
const perBlock = z.union([size, z.array(size)]);
/** Parts that are not laid here. */
const off = z.union([z.literal(false), z.null()]).optional();

export const unetSchema = z.looseObject({
  _class_name: z.string(),
  sample_size: z.union([size, z.tuple([size, size])]).nullish(),
  in_channels: size.default(3),
  out_channels: size.default(3),
  center_input_sample: z.boolean().default(false),
  time_embedding_type: z.literal("positional").default("positional"),
  time_embedding_dim: size.nullish(),
  freq_shift: z.number().default(0),
  flip_sin_to_cos: z.boolean().default(true),
  down_block_types: z.array(z.string()).min(1).max(32),
  up_block_types: z.array(z.string()).min(1).max(32),
  mid_block_type: z.string().nullish(),
  block_out_channels: z.array(size).min(1).max(32),
  layers_per_block: size.max(1000).default(2),
  mid_block_scale_factor: z.number().default(1),
  downsample_padding: z.number().int().nonnegative().default(1),
  downsample_type: z.literal("conv").default("conv"),
  upsample_type: z.literal("conv").default("conv"),
  act_fn: z.string().default("silu"),
  attention_head_dim: perBlock.nullable().default(8),
  norm_num_groups: size.default(32),
  attn_norm_num_groups: size.nullish(),
  norm_eps: z.number().default(1e-5),
  resnet_time_scale_shift: z.enum(["default", "scale_shift"]).default("default"),
  add_attention: z.boolean().default(true),
  num_class_embeds: size.nullish(),
  cross_attention_dim: size.nullish(),
  transformer_layers_per_block: size.max(1000).default(1),
  use_linear_projection: z.boolean().default(false),
  class_embed_type: z.null().optional(),
  addition_embed_type: z.null().optional(),
  encoder_hid_dim: z.null().optional(),
  only_cross_attention: off,
  dual_cross_attention: off,
  class_embeddings_concat: off,
  time_embedding_act_fn: z.null().optional(),
  timestep_post_act: z.null().optional(),
  time_cond_proj_dim: z.null().optional(),
  conv_in_kernel: z.literal(3).default(3),
  conv_out_kernel: z.literal(3).default(3),
});
export type UnetConfig = z.output<typeof unetSchema>;

/** An entry that is given once for all blocks, or for each. */
export const forBlock = (value: number | readonly number[], block: number): number =>
  typeof value === "number" ? value : (value[block] ?? value.at(-1) ?? 1);
