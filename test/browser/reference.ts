/** Runs in Node: what the CPU says about the same graphs, as JSON for the page. */
import { evaluate } from "../../src/runtime/index.js";
import type { Tensor } from "../../src/tensor/index.js";
import { operatorCases } from "./operators.js";
import { trainingGraph } from "./training-graph.js";

export interface PlainTensor {
  readonly dtype: string;
  readonly shape: readonly number[];
  /** NaN as null, as JSON has it. */
  readonly data: readonly (number | null)[];
}
export type Reference = Record<string, Record<string, PlainTensor>>;

const plain = (tensors: Record<string, Tensor>): Record<string, PlainTensor> =>
  Object.fromEntries(
    Object.entries(tensors).map(([name, { dtype, shape, data }]) => [
      name,
      { dtype, shape, data: Array.from(data as ArrayLike<number | bigint>, Number) },
    ]),
  );

export async function reference(): Promise<Reference> {
  const result: Reference = {};
  for (const { name, graph, feeds } of operatorCases()) result[name] = plain(await evaluate(graph, feeds));
  const { graph, feeds } = trainingGraph();
  result.training = plain(await evaluate(graph, feeds));
  return result;
}
