import { chooseLengths } from "../../data/index.js";

/** A few lengths that rows are padded to, none above the most. */
export const rowLengths = (rows: readonly { readonly ids: Int32Array }[], most: number): number[] =>
  [...new Set(chooseLengths(rows.map(({ ids }) => ids.length)).map((size) => Math.min(size, most)))].sort(
    (a, b) => a - b,
  );
