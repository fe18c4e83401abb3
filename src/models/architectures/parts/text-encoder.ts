import type { z } from "zod";
import { type Dim, ops, scope, type Value, withScope } from "../../../graph/index.js";
import type { InputSpec, TensorInputs } from "../../types.js";
import { paddingMask } from "./attention.js";
import { activation } from "./layers.js";
import { type AttentionNames, embeddingLayer, flatTokens, layerNormLayer, linearLayer } from "./modules.js";
import { multiHead, type Tokens } from "./multi-head.js";
import type { Params } from "./params.js";
import { positionsAfterPadding, rowPositions } from "./positions.js";

/** Sizes and switches that every encoder of text has, whatever its config calls them. */
export interface TextSizes {
  readonly vocab: number;
  readonly positions: number;
  /** Kinds of tokens (first and second text); 0 without such an embedding. */
  readonly types: number;
  /** Width of the embeddings; they are projected where it is not `width`. */
  readonly embedding: number;
  readonly width: number;
  readonly inner: number;
  readonly layers: number;
  readonly heads: number;
  readonly activation: string;
  readonly epsilon: number;
  readonly tied: boolean;
  /** The map from embeddings to blocks, where there is one. */
  readonly projection?: string | undefined;
  /** Id of padding, where positions count from it (RoBERTa). */
  readonly countFrom?: number | undefined;
}

/** Module names of a block, below the block's own. */
export interface BlockNames extends AttentionNames {
  readonly attentionNorm: string;
  readonly up: string;
  readonly down: string;
  readonly norm: string;
}

/** A head over the first token: dense, activation, classes. */
export interface SentenceHead {
  readonly dense: string;
  /** The dense map is the body's pooler, not part of the head. */
  readonly inBody: boolean;
  readonly activation: "tanh" | "relu" | "gelu";
  readonly classes: string;
}

/** A head over every token that guesses the word. `bias` names the tensor. */
export interface WordHead {
  readonly dense: string;
  readonly norm: string;
  readonly decoder: string;
  readonly bias: string;
  /** Default: the model's. */
  readonly activation?: string;
}

/** What sets one family of text encoders apart: sizes, and names as its community writes them. */
export interface TextFamily<Config> {
  readonly modelTypes: readonly string[];
  readonly schema: z.ZodType<Config>;
  /** Module of the body below a head; the bare model has no such level. */
  readonly prefix: string;
  /** Begins the names of its classes: `Bert` of `BertModel`; by `model_type`. */
  readonly classes: Readonly<Record<string, string>>;
  readonly defaultTargets: readonly string[];
  readonly block: BlockNames;
  readonly words: WordHead;
  readonly sentence: SentenceHead;
  /** The map that makes `pooler_output`. */
  readonly pooler?: string;
  sizes(config: Config): TextSizes;
  /** Module of a layer below the body; layers that share weights have one name. */
  layer(config: Config, layer: number): string;
}

/** Reads `input_ids`, and `attention_mask` and `token_type_ids` where they differ from their defaults. */
export const textInputs = ({ vocab, types }: TextSizes): InputSpec[] => {
  const shape = ["batch", "length"];
  return [
    { name: "input_ids", dtype: "int64", shape, below: vocab },
    { name: "attention_mask", dtype: "int64", shape, fill: 1 },
    ...(types > 1 ? [{ name: "token_type_ids", dtype: "int64", shape, below: types, fill: 0 } as const] : []),
  ];
};

export interface Encoded {
  readonly tokens: Tokens;
  readonly boundaries: readonly Value[];
}

/** Lays the body: embeddings, then blocks of attention and MLP, each followed by its norm. `root` ends in a dot or is empty. */
export function encodeText<Config>(
  family: TextFamily<Config>,
  config: Config,
  params: Params,
  { values }: TensorInputs,
  root: string,
): Encoded {
  const sizes = family.sizes(config);
  const ids = values.input_ids as Value;
  const [batch, length] = ids.shape as [Dim, Dim];
  const mask = scope(root.slice(0, -1), () => paddingMask(values.attention_mask as Value));
  let rows = embed(sizes, params, values, root);
  const boundaries = [rows];
  for (let layer = 0; layer < sizes.layers; layer++) {
    const path = `${root}${family.layer(config, layer)}`;
    rows = block(family.block, sizes, params, { rows, batch, length, like: ids }, mask, path);
    boundaries.push(rows);
  }
  return { tokens: { rows, batch, length, like: ids }, boundaries };
}

function embed(
  { vocab, positions, types, embedding, width, epsilon, countFrom, projection }: TextSizes,
  params: Params,
  values: TensorInputs["values"],
  root: string,
): Value {
  const ids = values.input_ids as Value;
  const table = (name: string, at: Value, rows: number) =>
    embeddingLayer(params, `${root}embeddings.${name}`, at, [rows, embedding]);
  const places = withScope(`${root}embeddings`, () =>
    countFrom === undefined ? rowPositions(ids) : positionsAfterPadding(ids, countFrom),
  );
  const kinds = values.token_type_ids ?? ops.unsqueeze(ops.arange(1), 0);
  const sum = withScope(`${root}embeddings`, () => {
    let x = table("word_embeddings", ids, vocab);
    if (types > 0) x = ops.add(x, table("token_type_embeddings", kinds, types));
    return ops.add(x, table("position_embeddings", places, positions));
  });
  const normed = layerNormLayer(params, `${root}embeddings.LayerNorm`, flatTokens(sum), epsilon);
  return projection === undefined ? normed : linearLayer(params, `${root}${projection}`, normed, width);
}

/** Norms stand after each sum, as in the original Transformer. */
function block(
  names: BlockNames,
  { heads, width, inner, epsilon, activation: act }: TextSizes,
  params: Params,
  x: Tokens,
  mask: Value,
  path: string,
): Value {
  const at = (name: string) => `${path}.${name}`;
  const attention = {
    query: at(names.query),
    key: at(names.key),
    value: at(names.value),
    output: at(names.output),
  };
  return withScope(path, () => {
    const attended = multiHead(params, attention, x, x, { heads, dim: width / heads, mask });
    const first = ops.keep(ops.add(x.rows, attended.rows));
    const middle = layerNormLayer(params, at(names.attentionNorm), first, epsilon);
    const up = activation(act)(linearLayer(params, at(names.up), middle, inner));
    const second = ops.add(middle, linearLayer(params, at(names.down), up, width));
    return layerNormLayer(params, at(names.norm), second, epsilon);
  });
}
