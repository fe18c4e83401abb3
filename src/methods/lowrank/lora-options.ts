import { z } from "zod";
import type { SiteShape, TensorSpec } from "../method.js";

/** Options of low-rank updates s·B·A, in the words of PEFT's LoRA. */
export const loraOptions = {
  rank: z.number().int().positive().default(8).describe("rank r of the update"),
  alpha: z.number().positive().default(8).describe("the update is scaled by alpha / rank"),
  rslora: z.boolean().default(false).describe("scale by alpha / sqrt(rank) instead (arXiv 2312.03732)"),
  dropout: z.number().min(0).lt(1).default(0).describe("dropout on the input of the update while training"),
  rankPattern: z
    .record(z.string(), z.number().int().positive())
    .default({})
    .describe("rank by module pattern"),
  alphaPattern: z.record(z.string(), z.number().positive()).default({}).describe("alpha by module pattern"),
};

/** A of random rows, uniform up to `bound`; default 1 / √columns. */
export const uniformMatrix = (rows: number, columns: number, bound = 1 / Math.sqrt(columns)): TensorSpec => ({
  shape: [rows, columns],
  trainable: true,
  init: ({ uniform }) => uniform(rows * columns, -bound, bound),
});

/** B at zero, so that the update starts as none. */
export const zeroMatrix = (rows: number, columns: number): TensorSpec => ({
  shape: [rows, columns],
  trainable: true,
  init: () => new Float32Array(rows * columns),
});

/** A and B of plain LoRA at a linear map. */
export const plainFactors = ({ inFeatures, outFeatures }: SiteShape, rank: number) => ({
  lora_A: uniformMatrix(rank, inFeatures),
  lora_B: zeroMatrix(outFeatures, rank),
});
