import type { Node } from "../types.js";
import { activatedProducts } from "./activated.js";
import { attentions } from "./attention.js";
import { controls } from "./control.js";
import { fused } from "./fused.js";
import { gridSamples } from "./grid-sample.js";
import { groupQueries } from "./group-query.js";
import { losses } from "./losses.js";
import { norms } from "./norms.js";
import { pools } from "./pool.js";
import { qlinears } from "./qlinear.js";
import { quantizedProducts } from "./quantized.js";
import { recurrent } from "./recurrent.js";
import { regions } from "./regions.js";
import { resizes } from "./resize.js";
import { rotaries } from "./rotary.js";
import { signals } from "./signal.js";
import type { Decomposition } from "./types.js";

/** Operators written in terms of simpler ones, keyed by operator (`domain.op` outside ai.onnx). */
export const decompositions: ReadonlyMap<string, Decomposition> = new Map(
  Object.entries({
    ...fused,
    ...activatedProducts,
    ...quantizedProducts,
    ...qlinears,
    ...attentions,
    ...groupQueries,
    ...rotaries,
    ...norms,
    ...losses,
    ...recurrent,
    ...pools,
    ...resizes,
    ...gridSamples,
    ...controls,
    ...regions,
    ...signals,
  }),
);

/** How a node's operator is written in simpler ones; undefined for an operator that has no decomposition. */
export const decompositionOf = (node: Node): Decomposition | undefined =>
  decompositions.get(node.domain ? `${node.domain}.${node.op}` : node.op);

export type { Decomposition } from "./types.js";
