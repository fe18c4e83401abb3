import { makeNode, ops, type Value } from "../graph/index.js";
import type { Site } from "../models/index.js";
import type { SiteCall } from "./method.js";

/** A weight as methods see it, `[out, in]`. */
export function asMatrix(site: Pick<Site, "kind" | "orientation" | "conv">, weight: Value): Value {
  if (site.kind === "conv") return ops.reshape(weight, [weight.shape[0] ?? 1, -1]);
  return site.orientation === "in-out" || site.kind === "embedding" ? ops.transpose(weight, [1, 0]) : weight;
}

/** The inverse of `asMatrix`: a changed weight as it lies in the file. */
export function asStored(site: Pick<Site, "kind" | "orientation" | "weight">, matrix: Value): Value {
  if (site.kind === "conv") return ops.reshape(matrix, site.weight.shape);
  return site.orientation === "in-out" || site.kind === "embedding" ? ops.transpose(matrix, [1, 0]) : matrix;
}

/** How activations meet the weight of a site of one kind. */
export interface SiteMap extends Pick<SiteCall, "apply" | "mix" | "perFeature" | "bias"> {
  /** What enters and what leaves, in the form methods know. */
  flat(x: Value): Value;
  flatOut(y: Value): Value;
}

const matrix = (value: Value): Value =>
  value.shape.length === 2 ? value : ops.reshape(value, [-1, value.shape.at(-1) ?? 1], [value]);

export const siteMap = (site: Site, bias: Value | undefined): SiteMap =>
  site.kind === "conv" ? convolutionMap(site, bias) : matrixMap(site.kind, bias);

/** Of a linear map or an embedding, which need no more than their weight. */
export function matrixMap(kind: "linear" | "embedding", bias?: Value): SiteMap {
  const isEmbedding = kind === "embedding";
  return {
    bias,
    flat: isEmbedding ? (x) => x : matrix,
    flatOut: matrix,
    apply: isEmbedding ? lookUp : (x, weight) => ops.gemm(x, weight, undefined, { transB: true }),
    mix: (h, by, { onto, alpha = 1 } = {}) => ops.gemm(h, by, onto, { transB: true, alpha }),
    perFeature: (vector) => vector,
  };
}

/** Columns of a weight `[k, rows]` for token ids, `[tokens, k]`. */
function lookUp(ids: Value, weight: Value): Value {
  const picked = ops.gather(ops.transpose(weight, [1, 0]), ids);
  return ops.reshape(picked, [-1, weight.shape[0] ?? 1], [ids]);
}

function convolutionMap({ attrs, weight: own }: Site, bias: Value | undefined): SiteMap {
  const taps = own.shape.slice(1);
  const ones = taps.slice(1).map(() => 1);
  const perFeature = (vector: Value) => ops.reshape(vector, [-1, ...ones]);
  return {
    bias: bias && perFeature(bias),
    flat: (x) => x,
    flatOut: (y) => y,
    perFeature,
    apply: (x, weight) =>
      makeNode("Conv", [x, ops.reshape(weight, [weight.shape[0] ?? 1, ...taps])], attrs).outputs[0] as Value,
    mix(h, by, { onto, alpha = 1 } = {}) {
      const scaled = alpha === 1 ? by : ops.mul(by, alpha);
      const mixed = ops.conv(h, ops.reshape(scaled, [...by.shape, ...ones]));
      return onto ? ops.add(onto, mixed) : mixed;
    },
  };
}
