import { TunesmithError } from "../../errors/index.js";
import { describe, type Node } from "../../graph/index.js";
import type { VjpRule } from "../types.js";
import { activations } from "./activations.js";
import { einsums } from "./einsum.js";
import { elementwise } from "./elementwise.js";
import { indexing } from "./indexing.js";
import { integers } from "./integer.js";
import { linear } from "./linear.js";
import { markers } from "./markers.js";
import { normalization } from "./normalization.js";
import { quantizedProducts } from "./quantized.js";
import { reductions } from "./reduce.js";
import { shapes } from "./shape.js";
import { stops } from "./stops.js";
import { windows } from "./window.js";

/** All VJP rules, keyed by operator (`domain.op` outside ai.onnx). */
export const vjpRules: ReadonlyMap<string, VjpRule> = new Map(
  Object.entries({
    ...elementwise,
    ...activations,
    ...einsums,
    ...windows,
    ...quantizedProducts,
    ...integers,
    ...linear,
    ...shapes,
    ...reductions,
    ...normalization,
    ...indexing,
    ...markers,
  }),
);

const keyOf = (node: Node): string => (node.domain ? `${node.domain}.${node.op}` : node.op);

/** Whether gradients end at this operator by definition. */
export const stopsGradient = (node: Node): boolean => stops.has(keyOf(node));

/** The rule of a node, if it has one of its own. */
export const findRule = (node: Node): VjpRule | undefined => vjpRules.get(keyOf(node));

/** The error for a node on the path that nothing can be done about: names operator, node and module path. */
export function notDifferentiable(node: Node, why = "has no gradient rule"): TunesmithError {
  return new TunesmithError("op-not-differentiable", `${describe(node)} ${why}`, {
    fix: "keep trained values off this path, wrap it in ops.stopGradient or ops.customVjp, or add a rule in src/autodiff/rules",
    details: { op: keyOf(node), node: node.name, scope: node.scope },
  });
}
