import type { Dim, Value } from "../../../graph/index.js";
import { ops } from "../../../graph/index.js";
import type { KeyValue } from "../../types.js";
import { attend, mergeHeads, splitHeads } from "./attention.js";
import { type AttentionNames, linearLayer } from "./modules.js";
import type { Params } from "./params.js";

/** A batch of sequences as rows, `[batch*length, width]`. */
export interface Tokens {
  readonly rows: Value;
  readonly batch: Dim;
  readonly length: Dim;
  /** A value that has both as axes: where symbolic ones are read off. */
  readonly like: Value;
}

export interface MultiHeadOptions {
  readonly heads: number;
  readonly dim: number;
  /** Of the scores. Default 1/sqrt(dim). */
  readonly scale?: number | undefined;
  /** Added to the scores. */
  readonly mask?: Value | undefined;
  /** Biases of the four maps. Default true. */
  readonly bias?: boolean | undefined;
  /** Of the key map. Default `bias`. */
  readonly keyBias?: boolean | undefined;
  /** Of the output map. Default `bias`. */
  readonly outputBias?: boolean | undefined;
  /** Keys and values that come before those of `source`. */
  readonly past?: KeyValue | undefined;
  /** Standard deviations of fresh maps. */
  readonly std?: Readonly<Record<keyof AttentionNames, number>> | undefined;
}

/**
 * Attention of `x` to `source` (itself, or an encoder's output): rows as wide as `x`, and the keys and values
 * `[batch, heads, past+length, dim]` that a cache keeps.
 */
export function multiHead(
  params: Params,
  names: AttentionNames,
  x: Tokens,
  source: Tokens,
  options: MultiHeadOptions,
): { readonly rows: Value; readonly present: KeyValue } {
  const { heads, dim, scale = 1 / Math.sqrt(dim), mask, bias = true, past, std } = options;
  const { keyBias = bias, outputBias = bias } = options;
  const project = (part: "query" | "key" | "value", { rows, like, ...axes }: Tokens, withBias: boolean) =>
    splitHeads(
      linearLayer(params, names[part], rows, heads * dim, { bias: withBias, std: std?.[part] }),
      heads,
      dim,
      axes,
      like,
    );
  const query = project("query", x, bias);
  const fresh = { key: project("key", source, keyBias), value: project("value", source, bias) };
  const present = past
    ? { key: ops.concat([past.key, fresh.key], 2), value: ops.concat([past.value, fresh.value], 2) }
    : fresh;
  const mixed = mergeHeads(attend(query, present.key, present.value, { scale, mask }), x.like);
  const width = x.rows.shape[1] as number;
  const rows = linearLayer(params, names.output, mixed, width, { bias: outputBias, std: std?.output });
  return { rows, present };
}

/** `[batch*length, width]` as `[batch, length, width]`. */
export const asSequences = ({ rows, batch, length, like }: Tokens): Value =>
  ops.reshape(rows, [batch, length, rows.shape[1] as number], [like]);

/** The first token of each sequence, `[batch, width]`. */
export const firstTokens = (tokens: Tokens): Value =>
  ops.reshape(
    ops.slice(asSequences(tokens), 1, 0, 1),
    [tokens.batch, tokens.rows.shape[1] as number],
    [tokens.like],
  );
