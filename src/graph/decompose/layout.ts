import { transpose } from "../ops/index.js";
import type { Value } from "../types.js";

const spatial = (x: Value, from: number) =>
  Array.from({ length: x.shape.length - 2 }, (_, axis) => axis + from);

/** `[N, ...space, C]` as `[N, C, ...space]`. */
export const channelsFirst = (x: Value): Value => transpose(x, [0, x.shape.length - 1, ...spatial(x, 1)]);

/** `[N, C, ...space]` as `[N, ...space, C]`. */
export const channelsLast = (x: Value): Value => transpose(x, [0, ...spatial(x, 2), 1]);
