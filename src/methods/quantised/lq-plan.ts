import { TunesmithError } from "../../errors/index.js";
import { type Quantization, quantizationOf } from "../../graph/index.js";
import { type CodeBits, type NormalFloatLayout, normalFloatStorage } from "../../tensor/index.js";
import { type Allocation, type AllocationItem, allocateBits } from "./bit-allocation.js";
import { lqDecompose, lqFactors, weightsOf } from "./lq-decomposition.js";

const BITS: readonly CodeBits[] = [2, 3, 4, 8];

/** Ways of keeping a weight that a budget chooses from: eight of them, or the 432 of the paper. */
export function lqCandidates(which: "few" | "all"): NormalFloatLayout[] {
  const few = BITS.flatMap((bits) =>
    (
      [
        [64, 8],
        [16, 4],
      ] as const
    ).map(
      ([blockSize, scaleBits]): NormalFloatLayout => ({
        ...{ bits, blockSize, scaleBits },
        ...{ superBlock: 256, scaleDtype: "float16" },
      }),
    ),
  );
  if (which === "few") return few;
  return BITS.flatMap((bits) =>
    BITS.flatMap((scaleBits) =>
      (["bfloat16", "float16", "float32"] as const).flatMap((scaleDtype) =>
        [16, 32, 64].flatMap((blockSize) =>
          [16, 64, 256].map((superBlock) => ({ bits, scaleBits, scaleDtype, blockSize, superBlock })),
        ),
      ),
    ),
  );
}

/** A weight to be kept. */
export interface LqWeight {
  readonly path: string;
  readonly rows: number;
  readonly columns: number;
  /** `[rows, columns]`, read when its turn comes. */
  load(): Promise<Float32Array>;
  fisher(): Promise<Float32Array | undefined>;
}

export interface LqPlanOptions {
  readonly rank: number;
  /** Bits per weight, on average over all. */
  readonly budgetBits: number;
  readonly candidates: readonly NormalFloatLayout[];
  /** Rounds of the decomposition that costs are taken after. */
  readonly costIters: number;
}

/**
 * How each weight is kept within a budget: the squared error of its decomposition in every way is the cost, of which
 * the sum is made least. Throws `config-invalid` for a budget below what the smallest ways take.
 */
export async function lqPlan(
  weights: readonly LqWeight[],
  options: LqPlanOptions,
): Promise<{ readonly layouts: readonly NormalFloatLayout[]; readonly allocation: Allocation }> {
  const { candidates, budgetBits } = options;
  const items: AllocationItem[] = [];
  for (const weight of weights) items.push(await costsOf(weight, options));
  const numbers = weights.reduce((sum, { rows, columns }) => sum + rows * columns, 0);
  const budget = Math.floor(budgetBits * numbers);
  const least = items.reduce((sum, { bits }) => sum + Math.min(...bits), 0);
  if (least > budget) {
    throw new TunesmithError(
      "config-invalid",
      `budgetBits: ${budgetBits} bits per weight are less than the ${(least / numbers).toFixed(3)} that the smallest layouts take`,
      { fix: "raise the budget", details: { least, budget } },
    );
  }
  const allocation = allocateBits(items, budget);
  return { allocation, layouts: allocation.chosen.map((at) => candidates[at] as NormalFloatLayout) };
}

async function costsOf(
  { rows, columns, load, fisher: fisherOf }: LqWeight,
  { candidates, rank, costIters }: LqPlanOptions,
): Promise<AllocationItem> {
  const [weight, fisher] = [await load(), await fisherOf()];
  const scales = fisher && weightsOf(fisher, rows, columns);
  const first = await lqFactors(weight, { rows, columns, rank }, scales);
  const [costs, bits]: [number[], number[]] = [[], []];
  for (const layout of candidates) {
    bits.push(normalFloatStorage(layout, rows * columns));
    const fits = (rows * columns) % layout.blockSize === 0;
    const found = fits
      ? await lqDecompose(weight, rows, columns, { rank, layout, fisher, first, maxIters: costIters })
      : undefined;
    costs.push(found ? found.error ** 2 : Number.POSITIVE_INFINITY);
  }
  // Ways that do not fit must not look small.
  return {
    costs,
    bits: bits.map((each, at) => (Number.isFinite(costs[at]) ? each : Number.POSITIVE_INFINITY)),
  };
}

/** Settings of one layout for all weights. */
export const uniformLayout = (options: {
  readonly bits: number;
  readonly blockSize?: number | undefined;
  readonly scaleBits?: number | undefined;
  readonly superBlock?: number | undefined;
  readonly scaleDtype?: NormalFloatLayout["scaleDtype"] | undefined;
}): Quantization => {
  const { bits, scaleBits, ...rest } = options;
  return quantizationOf({
    kind: "nf",
    ...rest,
    bits: bits as CodeBits,
    scaleBits: scaleBits as CodeBits | undefined,
  });
};
