import type { Dim, Value } from "../types.js";
import { type InferContext, type InferRule, intAttr, like, need, stringAttr } from "./types.js";

/** Y and the last states of RNN, GRU and LSTM; `layout` 1 puts the batch first. */
const recurrent =
  (states: number, hiddenOf = (r: Value): Dim => r.shape[2] as Dim): InferRule =>
  (context: InferContext) => {
    const [x, r] = [need(context, 0), need(context, 2)];
    const batchFirst = intAttr(context.attrs, "layout", 0) === 1;
    const [time, batch] = batchFirst ? [x.shape[1], x.shape[0]] : [x.shape[0], x.shape[1]];
    const directions = stringAttr(context.attrs, "direction", "forward") === "bidirectional" ? 2 : 1;
    const hidden = hiddenOf(r);
    const y = batchFirst ? [batch, time, directions, hidden] : [time, directions, batch, hidden];
    const last = batchFirst ? [batch, directions, hidden] : [directions, batch, hidden];
    const outputs = [like(x, y as Dim[]), ...Array.from({ length: states }, () => like(x, last as Dim[]))];
    return outputs.slice(0, context.outputs ?? outputs.length);
  };

export const recurrents: Record<string, InferRule> = {
  RNN: recurrent(1),
  GRU: recurrent(1),
  LSTM: recurrent(2),
  "com.microsoft.DynamicQuantizeLSTM": recurrent(2, (r) => r.shape[1] as Dim),
  ReverseSequence: (context) => [like(need(context, 0))],
};
