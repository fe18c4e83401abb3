import { TunesmithError } from "../../errors/index.js";
import { describe, type Node } from "../../graph/index.js";
import type { VjpRule } from "../types.js";
import { elementwise } from "./elementwise.js";
import { indexing } from "./indexing.js";
import { linear } from "./linear.js";
import { markers } from "./markers.js";
import { normalization } from "./normalization.js";
import { reductions } from "./reduce.js";
import { shapes } from "./shape.js";

/** All VJP rules, keyed by operator (`domain.op` outside ai.onnx). */
export const vjpRules: ReadonlyMap<string, VjpRule> = new Map(
  Object.entries({
    ...elementwise,
    ...linear,
    ...shapes,
    ...reductions,
    ...normalization,
    ...indexing,
    ...markers,
  }),
);

/** The rule of a node; throws `op-not-differentiable` naming operator, node and module path. */
export function ruleFor(node: Node): VjpRule {
  const key = node.domain ? `${node.domain}.${node.op}` : node.op;
  const rule = vjpRules.get(key);
  if (rule) return rule;
  throw new TunesmithError("op-not-differentiable", `${describe(node)} has no gradient rule`, {
    fix: "keep trained values off this path, wrap it in ops.stopGradient or ops.customVjp, or add a rule in src/autodiff/rules",
    details: { op: key, node: node.name, scope: node.scope },
  });
}
