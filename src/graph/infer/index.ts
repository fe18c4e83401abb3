import { TunesmithError } from "../../errors/index.js";
import { contrib } from "./contrib.js";
import { control } from "./control.js";
import { elementwise } from "./elementwise.js";
import { indexing } from "./indexing.js";
import { linear } from "./linear.js";
import { losses } from "./loss.js";
import { normalization } from "./normalization.js";
import { quantized } from "./quantized.js";
import { recurrents } from "./recurrent.js";
import { reductions } from "./reduce.js";
import { shapes } from "./shape.js";
import { type InferContext, type InferRule, type OutputSpec, where } from "./types.js";
import { vision } from "./vision.js";

const rules: ReadonlyMap<string, InferRule> = new Map(
  Object.entries({
    ...elementwise,
    ...linear,
    ...shapes,
    ...reductions,
    ...indexing,
    ...normalization,
    ...vision,
    ...recurrents,
    ...losses,
    ...control,
    ...quantized,
    ...contrib,
  }),
);

const keyOf = (op: string, domain: string) => (domain && domain !== "ai.onnx" ? `${domain}.${op}` : op);

/** Whether an operator's outputs can be inferred. */
export const hasRule = (op: string, domain: string): boolean => rules.has(keyOf(op, domain));

/** Output dtypes and shapes of an operator. Throws `op-unknown` for operators without a rule. */
export function inferOutputs(context: InferContext): readonly OutputSpec[] {
  const key = keyOf(context.op, context.domain);
  const rule = rules.get(key);
  if (!rule) {
    throw new TunesmithError("op-unknown", `${where(context)}: no shape inference rule for this operator`, {
      fix: "add a rule in src/graph/infer (see CONTRIBUTING.md), or decompose the operator first",
      details: { op: key },
    });
  }
  return rule(context);
}

export type { InferContext, InferRule, OutputSpec } from "./types.js";
