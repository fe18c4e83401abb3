import { makeGraph } from "../graph/index.js";
import { inputsOf, type Model, type Parameters, parameterFeeds } from "../models/index.js";
import { evaluate } from "../runtime/index.js";
import { readTensor, type Tensor } from "../tensor/index.js";
import type { Adapter } from "./adapter.js";
import type { TensorChange } from "./effective.js";

/** One merged tensor; each is computed by a session of its own, so that memory stays that of one weight. */
export async function mergedTensor(
  change: TensorChange,
  adapters: readonly Adapter[],
  base: Model,
): Promise<Tensor> {
  const parameters: Parameters = new Map([
    ...base.parameters,
    ...adapters.flatMap((adapter) => [...adapter.parameters]),
  ]);
  const { source, name } = change.after;
  // A tensor trained whole is copied: training on must not reach into the merged model.
  const whole = source.kind === "input" ? parameters.get(String(name))?.tensor : undefined;
  if (whole) return { ...whole, data: whole.data.slice() } as Tensor;
  if (source.kind === "constant") return readTensor(source.data);
  const inputs = inputsOf([change.after]);
  const graph = makeGraph(`merge ${change.path}`, inputs, [["merged", change.after]]);
  const { merged } = await evaluate(graph, parameterFeeds(graph, parameters));
  return merged as Tensor;
}
