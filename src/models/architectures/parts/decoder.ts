import { type Dim, ops, type Value } from "../../../graph/index.js";
import type { KeyValue, TensorInputs } from "../../types.js";
import { maskBuilder } from "./attention.js";
import { rowPositions } from "./positions.js";

/** Where a decoder's tokens stand, from the start of the row or after what is cached. */
export interface DecoderPlaces {
  readonly ids: Value;
  readonly batch: Dim;
  readonly length: Dim;
  /** int64 `[batch or 1, length]`, of the new tokens. */
  readonly positions: Value;
  /** int64 `[batch or 1, past+length]`. */
  readonly keyPositions: Value;
  /** Each token sees itself and those before it. */
  readonly mask: Value;
  past(layer: number): KeyValue | undefined;
}

export function decoderPlaces({ values, decoding }: TensorInputs): DecoderPlaces {
  const ids = values.decoder_input_ids as Value;
  const [batch, length] = ids.shape as [Dim, Dim];
  const positions = decoding?.positions ?? rowPositions(ids);
  const keyPositions = decoding ? ops.concat([decoding.past.positions, positions], 1) : positions;
  const mask = maskBuilder(decoding ?? { positions })();
  const past = (layer: number) => decoding?.past.layers[layer];
  return { ids, batch, length, positions, keyPositions, mask, past };
}
