import { TunesmithError } from "../errors/index.js";
import type { SessionOptions } from "../runtime/index.js";
import type { Objective, StepBatch } from "../training/index.js";
import { valuesOver } from "./calibration.js";

export interface TallyOptions {
  /** Batches of the objective's training data to look at. Default 16. */
  readonly batches?: number;
  /** Seed of the order of the data. Default 0. */
  readonly seed?: number;
  readonly session?: SessionOptions;
}

/**
 * What the methods on a model count over data, by `adapter/module.path/name`: of S'MoRE `chosen/l`, how many paths of tokens went to
 * each expert of sub-layer l, and `scores/l`, what those experts counted together. Padding is left out where the model's
 * inputs say which rows it is. The model runs as it does outside training.
 *
 * Throws `config-invalid` when no active method counts anything, and what running the objective throws.
 *
 * @example
 * ```ts
 * import { talliesOf } from "tunesmith/methods";
 * import type { Objective } from "tunesmith/training";
 * export async function histograms(objective: Objective) {
 *   for (const [name, counts] of await talliesOf(objective, { batches: 4 })) console.log(name, [...counts]);
 * }
 * ```
 */
export async function talliesOf(
  objective: Objective,
  { batches = 16, seed = 0, session }: TallyOptions = {},
): Promise<Map<string, Float64Array>> {
  const source = objective.batches({ epoch: 0, step: 0 }, seed);
  const sums = new Map<string, Float64Array>();
  for (let at = 0; at < batches; at++) {
    const batch = (await source.next()).value as StepBatch;
    const { passes } = objective.lossGraph(batch.shape, { training: false });
    const outputs = passes.flatMap(({ tallies }) => Object.entries(tallies ?? {}));
    if (outputs.length === 0) throw nothingToCount();
    for (const [name, { data }] of Object.entries(await valuesOver(objective, batch, outputs, session))) {
      const sum = sums.get(name) ?? new Float64Array(data.length);
      sums.set(
        name,
        sum.map((value, index) => value + Number(data[index])),
      );
    }
  }
  return sums;
}

const nothingToCount = () =>
  new TunesmithError("config-invalid", "no active method of this model counts anything", {
    fix: "adapt the model with a method that routes tokens, such as smore",
  });
