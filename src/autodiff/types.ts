import type { Node, Value } from "../graph/index.js";

/** What a rule sees: the node, its operands and results, and the gradients that arrived at its outputs. */
export interface VjpContext {
  readonly node: Node;
  readonly inputs: readonly Value[];
  readonly outputs: readonly Value[];
  /** Gradient of each output, undefined where none flows. */
  readonly dys: readonly (Value | undefined)[];
  /** The first output's gradient; what most rules need. */
  readonly dy: Value;
  /** Whether the gradient of input `index` is wanted; rules skip work for the others. */
  readonly needs: (index: number) => boolean;
}

/** Gradients for the node's inputs, by position; undefined where none flows. Graph code only. */
export type VjpRule = (context: VjpContext) => readonly (Value | undefined)[];
export type VjpTable = Readonly<Record<string, VjpRule>>;
