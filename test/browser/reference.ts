/** Runs in Node: what the CPU says about the same graphs, as JSON for the page. */
import { evaluate } from "../../src/runtime/index.js";
import type { Tensor } from "../../src/tensor/index.js";
import { operatorCases } from "./operators.js";
import { shippedGraph } from "./shipped-graph.js";
import { trainingGraph } from "./training-graph.js";

export interface PlainTensor {
  readonly dtype: string;
  readonly shape: readonly number[];
  /** NaN as null, as JSON has it. */
  readonly data: readonly (number | null)[];
}
export type Reference = Record<string, Record<string, PlainTensor>>;

/** Tensors as JSON holds them. */
export const plain = (tensors: Record<string, Tensor>): Record<string, PlainTensor> =>
  Object.fromEntries(
    Object.entries(tensors).map(([name, { dtype, shape, data }]) => [
      name,
      { dtype, shape, data: Array.from(data as ArrayLike<number | bigint>, Number) },
    ]),
  );

/** `shippedModel` is the URL of the folder of the model that ships. */
export async function reference(shippedModel: URL): Promise<Reference> {
  const result: Reference = {};
  const cases = [
    ...operatorCases(),
    { name: "training", ...trainingGraph() },
    { name: "shipped", ...(await shippedGraph(shippedModel)) },
  ];
  for (const { name, graph, feeds } of cases) result[name] = plain(await evaluate(graph, feeds));
  return result;
}
