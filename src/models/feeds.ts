import { TunesmithError } from "../errors/index.js";
import { type Graph, reach, type Value } from "../graph/index.js";
import type { Tensor } from "../tensor/index.js";
import type { Parameters } from "./types.js";

/** Graph inputs that `outputs` read, in order of creation: what must be fed. */
export function inputsOf(outputs: Iterable<Value>): Value[] {
  return reach(outputs).values.filter((value) => value.source.kind === "input");
}

/** The parameters that a graph reads, as feeds. They are the live arrays: changing one changes the next run. */
export function parameterFeeds(graph: Graph, parameters: Parameters): Record<string, Tensor> {
  const feeds: Record<string, Tensor> = {};
  for (const value of graph.inputs) {
    const parameter = parameters.get(String(value.name));
    if (!parameter) continue;
    if (parameter.value !== value) {
      throw new TunesmithError(
        "name-conflict",
        `graph input '${value.name}' is not the parameter of that name`,
      );
    }
    feeds[parameter.name] = parameter.tensor;
  }
  return feeds;
}
