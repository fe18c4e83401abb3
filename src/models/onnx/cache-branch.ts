import { bindInputs, type Graph, prune } from "../../graph/index.js";
import { tensor } from "../../tensor/index.js";

/**
 * Optimum's "merged" decoders hold two models, with and without a cache, and an input that says which one runs. The one
 * without is for whole sequences; what it makes needs no cache inputs.
 */
export function withoutCacheBranch(graph: Graph): Graph {
  const flag = graph.inputs.find(({ name }) => name === "use_cache_branch");
  if (!flag) return graph;
  const shape = flag.shape.map(() => 1);
  return prune(bindInputs(graph, { use_cache_branch: tensor(flag.dtype, shape, [0]) }));
}
