import type { Node, Value } from "../types.js";

/**
 * An operator in terms of simpler ones, over `inputs` (which may differ from the node's own when a rewrite is under
 * way). Outputs by position; undefined for one that is not worth having (statistics of fused norms).
 */
export type Decomposition = (
  inputs: readonly (Value | undefined)[],
  node: Node,
) => readonly (Value | undefined)[];
export type DecompositionTable = Readonly<Record<string, Decomposition>>;
