import type { Shape } from "../types.js";
import { type InferContext, type InferRule, like, need, stringAttr } from "./types.js";

const lossShape = (context: InferContext): Shape =>
  stringAttr(context.attrs, "reduction", "mean") === "none" ? need(context, 1).shape : [];

export const losses: Record<string, InferRule> = {
  NegativeLogLikelihoodLoss: (context) => [like(need(context, 0), lossShape(context))],
  SoftmaxCrossEntropyLoss: (context) => {
    const scores = need(context, 0);
    return [like(scores, lossShape(context)), like(scores)].slice(0, context.outputs ?? 1);
  },
};
